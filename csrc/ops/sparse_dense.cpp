// Sparse voxels to a dense grid and back: schema and Meta kernels.
#include "sparse_dense.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <vector>

namespace mxd::sparse_dense {
namespace {

at::Tensor to_dense_meta(const at::Tensor& features, const at::Tensor& indices,
                         c10::SymInt batch_size, c10::SymIntArrayRef spatial_shape,
                         bool channels_first) {
  check_to_dense(features, indices, batch_size, spatial_shape, channels_first);
  std::vector<c10::SymInt> sizes{batch_size};
  sizes.insert(sizes.end(), spatial_shape.begin(), spatial_shape.end());
  sizes.insert(channels_first ? sizes.begin() + 1 : sizes.end(), features.sym_size(1));
  return at::empty_symint(sizes, features.options());
}

at::Tensor from_dense_meta(const at::Tensor& dense, const at::Tensor& indices,
                           bool channels_first) {
  check_from_dense(dense, indices, channels_first);
  return at::empty_symint({indices.sym_size(0), dense.sym_size(channels_first ? 1 : -1)},
                          dense.options());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(mxd, m) {
  define(m,
         "sparse_to_dense(Tensor features, Tensor indices, SymInt batch_size, SymInt[] "
         "spatial_shape, bool channels_first) -> Tensor",
         check_to_dense, to_dense_meta);
  define(m, "sparse_from_dense(Tensor dense, Tensor indices, bool channels_first) -> Tensor",
         check_from_dense, from_dense_meta);
}

}  // namespace mxd::sparse_dense
