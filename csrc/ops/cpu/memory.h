// Buffers of the CPU kernels.
#pragma once

#include <ATen/ops/empty.h>

#include <new>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace mxd::cpu {

// at::empty, with huge pages where the system gives them on request: a page fault for each 4 KiB of
// fresh memory costs more than the arithmetic of a convolution that fills it.
inline at::Tensor empty_output(at::IntArrayRef sizes, const at::TensorOptions& options) {
  auto tensor = at::empty(sizes, options);
#ifdef __linux__
  constexpr uintptr_t kHugePage = 2 << 20;
  const auto begin = reinterpret_cast<uintptr_t>(tensor.data_ptr());
  const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t last = (begin + tensor.nbytes()) / kHugePage * kHugePage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
  return tensor;
}

// A std::vector that begins at a cache line, so that no vector or row of a tile lies across two.
template <typename T>
struct LineAllocator {
  using value_type = T;
  static constexpr std::align_val_t kLine{64};

  LineAllocator() = default;
  template <typename U>
  LineAllocator(const LineAllocator<U>&) {}
  T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), kLine)); }
  void deallocate(T* data, size_t) { ::operator delete(data, kLine); }
  template <typename U>
  bool operator==(const LineAllocator<U>&) const {
    return true;
  }
  template <typename U>
  bool operator!=(const LineAllocator<U>&) const {
    return false;
  }
};
template <typename T>
using LineVector = std::vector<T, LineAllocator<T>>;

}  // namespace mxd::cpu
