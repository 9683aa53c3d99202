// Sparse max pooling on the NPU: the pairs sorted by the row that they lead to, and maxima or sums
// by segment. The sort is stable, so that the pairs of a row stay in the order of the kernel's
// points.
#include <torch/library.h>

#include "../sparse_pool.h"
#include "segment_reduce.h"
#include "sort.h"

namespace mxd::sparse_pool {
namespace {

struct Segments {
  at::Tensor rows, begins;
};

Segments sort_pairs(const at::Tensor& pairs, int64_t count) {
  const npu::Sorted sorted =
      npu::sort_keys(pairs.select(1, 1).contiguous(), pairs.select(1, 0).contiguous());
  return {sorted.rows, npu::segment_begins(sorted.keys, count)};
}

std::tuple<at::Tensor, at::Tensor> forward_npu(const at::Tensor& features, const at::Tensor& pairs,
                                               const at::Tensor& bounds, int64_t num_out) {
  check_forward(features, pairs, bounds, num_out);
  const Segments outputs = sort_pairs(pairs, num_out);
  return npu::segment_max(features, outputs.rows, outputs.begins, /*nan=*/true);
}

at::Tensor backward_npu(const at::Tensor& grad, const at::Tensor& argmax, const at::Tensor& pairs,
                        const at::Tensor& bounds, int64_t num_in) {
  check_backward(grad, argmax, pairs, bounds, num_in);
  const Segments inputs = sort_pairs(pairs, num_in);
  return npu::segment_sum_where(grad, argmax, inputs.rows, inputs.begins);
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, PrivateUse1, m) {
  m.impl("sparse_max_pool", TORCH_FN(forward_npu));
  m.impl("sparse_max_pool_backward", TORCH_FN(backward_npu));
}

}  // namespace mxd::sparse_pool
