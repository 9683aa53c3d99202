// CPU tensors over the memory of npu tensors: what lets a CPU kernel work on them.
#pragma once
#include <ATen/ATen.h>

namespace softnpu {

// The CPU tensor over an npu tensor's memory, once the commands that torch_npu has queued are done.
// Other tensors are handed back as they are.
at::Tensor as_cpu(const at::Tensor& tensor);

// A new npu tensor with the layout and values of a CPU tensor.
at::Tensor to_npu(const at::Tensor& tensor, at::Device device);

// The npu tensor that shares the storage of `owner` and has the dtype and layout of `like`.
at::Tensor view_as(const at::Tensor& owner, const at::Tensor& like);

// The CPU generator that draws an npu generator's numbers. Where both devices were seeded alike, as
// torch.manual_seed does, the CPU's own: a model then has the weights and dropout that it has on
// the CPU. Else a new one that follows from the npu generator's seed and offset, which moves on:
// the same seed gives the same numbers, and a saved state brings them back.
at::Generator as_cpu(const std::optional<at::Generator>& generator, at::Device device);

}  // namespace softnpu
