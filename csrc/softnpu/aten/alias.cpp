#include "alias.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <torch_npu/csrc/aten/NPUGeneratorImpl.h>
#include <torch_npu/csrc/core/npu/NPUStream.h>

#include "../acl/memory.h"
#include "gil.h"

extern "C" const char* aclGetRecentErrMsg();

namespace softnpu {

at::Tensor as_cpu(const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_privateuseone()) return tensor;
  // Hands out the raw stream only when the queue before it is empty, and throws what failed there.
  {
    const WithoutGil waiting;
    c10_npu::getCurrentNPUStream(tensor.device().index()).stream();
  }
  c10::Storage storage = tensor.storage();
  void* data = storage.mutable_data();
  TORCH_CHECK(storage.nbytes() == 0 ||
                  softnpu_check(data, storage.nbytes(), "the storage of an npu tensor"),
              aclGetRecentErrMsg());
  // Resizable, for out= arguments: what no longer fits moves to host memory, and back afterwards.
  c10::DataPtr alias(
      data, new c10::Storage(storage),
      [](void* owner) { delete static_cast<c10::Storage*>(owner); }, at::kCPU);
  c10::Storage host(c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(alias),
                    at::getCPUAllocator(), /*resizable=*/true);
  auto out = at::detail::make_tensor<c10::TensorImpl>(
      std::move(host), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
  out.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(),
                                                   tensor.storage_offset());
  return out;
}

at::Tensor to_npu(const at::Tensor& tensor, at::Device device) {
  if (!tensor.defined()) return tensor;
  auto out = at::empty_strided(tensor.sizes(), tensor.strides(), tensor.options().device(device));
  if (tensor.numel()) as_cpu(out).copy_(tensor);
  return out;
}

at::Tensor view_as(const at::Tensor& owner, const at::Tensor& like) {
  auto out = at::empty({0}, like.options().device(owner.device()));
  return out.set_(owner.storage(), like.storage_offset(), like.sizes(), like.strides());
}

at::Generator as_cpu(const std::optional<at::Generator>& generator, at::Device device) {
  if (generator && generator->device().is_cpu()) return *generator;
  auto npu = generator ? *generator : at_npu::detail::getDefaultNPUGenerator(device.index());
  std::lock_guard lock(npu.mutex());
  const uint64_t seed = npu.current_seed(), offset = npu.get_offset();
  const auto& cpu = at::detail::getDefaultCPUGenerator();
  if (!generator && offset == 0 && seed == cpu.current_seed()) return cpu;
  npu.set_offset(offset + 4);  // torch_npu wants multiples of four
  // Steps of the golden ratio keep the seeds of successive calls far apart.
  return at::make_generator<at::CPUGeneratorImpl>(seed + (offset / 4 + 1) * 0x9E3779B97F4A7C15ull);
}

}  // namespace softnpu
