// Sum of sparse tensors with different voxels: schema and Meta kernel.
#include "sparse_add.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace mxd::sparse_add {
namespace {

at::Tensor sum_meta(at::TensorList features, const at::Tensor& rows, c10::SymInt num_out) {
  check_sum(features, rows, num_out);
  return at::empty_symint({num_out, features[0].sym_size(1)}, features[0].options());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(mxd, m) {
  define(m,
         "sparse_union(Tensor[] indices, int batch_size, int[] spatial_shape) -> (Tensor "
         "out_indices, Tensor rows)",
         check_union);
  define(m, "sparse_sum(Tensor[] features, Tensor rows, SymInt num_out) -> Tensor", check_sum,
         sum_meta);
}

}  // namespace mxd::sparse_add
