// Voxels to a dense grid and back on the CPU. Numbers are only copied, so that only the size of a
// dtype matters. With channels first, each block of voxels is copied a few channels at a time:
// voxels are mostly sorted, and the cache lines of a few planes stay in the cache.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "../sparse_dense.h"
#include "memory.h"
#include "parallel.h"
#include "voxels.h"

namespace mxd::sparse_dense {
namespace {

constexpr int64_t kBlock = 128;  // voxels
constexpr int64_t kPlanes = 64;  // channels

// Where the numbers of each voxel lie: those of voxel n and channel c at first[n] + c * step.
struct Places {
  std::vector<int64_t> first;
  int64_t step = 1;

  Places(const at::Tensor& indices, int64_t batch_size, at::IntArrayRef shape, int64_t channels,
         bool channels_first)
      : first(indices.size(0)) {
    const int64_t volume = cpu::cell_count(1, shape);
    cpu::number_cells(indices.const_data_ptr<int32_t>(), indices.size(0), batch_size, shape,
                      first.data());
    if (channels_first) {
      step = volume;
      for (int64_t& cell : first) cell += cell / volume * volume * (channels - 1);
    } else {
      for (int64_t& cell : first) cell *= channels;
    }
  }
};

// Calls move(row of features, place in the grid) for every number.
template <typename Move>
void for_each_number(const Places& places, int64_t channels, const Move& move) {
  const int64_t count = places.first.size(), blocks = (count + kBlock - 1) / kBlock;
  cpu::for_each_unit(blocks, [&](int64_t block, int64_t) {
    const int64_t begin = block * kBlock, end = std::min(begin + kBlock, count);
    if (places.step == 1) {
      for (int64_t n = begin; n < end; n++)
        for (int64_t c = 0; c < channels; c++) move(n * channels + c, places.first[n] + c);
    } else {
      for (int64_t c = 0; c < channels; c += kPlanes) {
        const int64_t last = std::min(c + kPlanes, channels);
        for (int64_t n = begin; n < end; n++)
          for (int64_t at = c; at < last; at++)
            move(n * channels + at, places.first[n] + at * places.step);
      }
    }
  });
}

// Calls body with a number of the size of the dtype's.
template <typename Body>
void with_number(const at::Tensor& tensor, const Body& body) {
  switch (tensor.element_size()) {
    case 1:
      return body(uint8_t{});
    case 2:
      return body(uint16_t{});
    case 4:
      return body(uint32_t{});
    case 8:
      return body(uint64_t{});
    default:
      TORCH_CHECK_TYPE(false, "numbers must have 1, 2, 4 or 8 bytes, were ", tensor.scalar_type());
  }
}

void fill_with_zeros(at::Tensor& tensor) {
  auto* data = static_cast<char*>(tensor.mutable_data_ptr());
  at::parallel_for(0, tensor.nbytes(), 1 << 20,
                   [&](int64_t begin, int64_t end) { std::memset(data + begin, 0, end - begin); });
}

at::Tensor to_dense_cpu(const at::Tensor& features, const at::Tensor& indices, int64_t batch_size,
                        at::IntArrayRef spatial_shape, bool channels_first) {
  check_to_dense(features, indices, batch_size, c10::fromIntArrayRefSlow(spatial_shape),
                 channels_first);
  const int64_t channels = features.size(1);
  cpu::cell_count(batch_size * channels, spatial_shape);
  const Places places(indices.contiguous(), batch_size, spatial_shape, channels, channels_first);
  std::vector<int64_t> sizes{batch_size};
  sizes.insert(sizes.end(), spatial_shape.begin(), spatial_shape.end());
  sizes.insert(channels_first ? sizes.begin() + 1 : sizes.end(), channels);
  auto out = cpu::empty_output(sizes, features.options());
  fill_with_zeros(out);
  const at::Tensor in = features.contiguous();
  with_number(in, [&](auto number) {
    using Number = decltype(number);
    const auto* from = static_cast<const Number*>(in.const_data_ptr());
    auto* to = static_cast<Number*>(out.mutable_data_ptr());
    for_each_number(places, channels, [&](int64_t row, int64_t place) { to[place] = from[row]; });
  });
  return out;
}

at::Tensor from_dense_cpu(const at::Tensor& dense, const at::Tensor& indices, bool channels_first) {
  check_from_dense(dense, indices, channels_first);
  const int64_t channels = dense.size(channels_first ? 1 : -1);
  const at::IntArrayRef shape = dense.sizes().slice(channels_first ? 2 : 1, dense.dim() - 2);
  const Places places(indices.contiguous(), dense.size(0), shape, channels, channels_first);
  auto out = cpu::empty_output({indices.size(0), channels}, dense.options());
  const at::Tensor in = dense.contiguous();
  with_number(in, [&](auto number) {
    using Number = decltype(number);
    const auto* from = static_cast<const Number*>(in.const_data_ptr());
    auto* to = static_cast<Number*>(out.mutable_data_ptr());
    for_each_number(places, channels, [&](int64_t row, int64_t place) { to[row] = from[place]; });
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, CPU, m) {
  m.impl("sparse_to_dense", TORCH_FN(to_dense_cpu));
  m.impl("sparse_from_dense", TORCH_FN(from_dense_cpu));
}

}  // namespace mxd::sparse_dense
