// Sum of sparse tensors on the CPU: the union of their voxels by one sort, then each output row
// once.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <numeric>

#include "../sparse_add.h"
#include "compute_type.h"
#include "memory.h"
#include "radix_sort.h"
#include "rulebook.h"
#include "voxels.h"

namespace mxd::sparse_add {
namespace {

// The tensor that a row of the concatenation belongs to, and where each one begins in it.
struct Parts {
  std::vector<int64_t> begin{0};

  explicit Parts(at::TensorList tensors) {
    for (const at::Tensor& tensor : tensors) begin.push_back(begin.back() + tensor.size(0));
  }
  int64_t count() const { return begin.back(); }
  int64_t of(int64_t row) const {
    return std::upper_bound(begin.begin(), begin.end(), row) - begin.begin() - 1;
  }
};

std::tuple<at::Tensor, at::Tensor> union_cpu(at::TensorList indices, int64_t batch_size,
                                             at::IntArrayRef spatial_shape) {
  check_union(indices, batch_size, spatial_shape);
  const Parts parts(indices);
  const int64_t count = parts.count(), width = spatial_shape.size() + 1;
  const uint64_t limit = cpu::cell_count(batch_size, spatial_shape);
  TORCH_CHECK_VALUE(count < std::numeric_limits<int32_t>::max(),
                    "indices must have fewer than 2**31 - 1 rows together, had ", count);
  std::vector<at::Tensor> contiguous;
  std::vector<uint64_t> keys(count);
  for (size_t t = 0; t < indices.size(); t++) {
    contiguous.push_back(indices[t].contiguous());
    cpu::number_cells(contiguous[t].const_data_ptr<int32_t>(), indices[t].size(0), batch_size,
                      spatial_shape, keys.data() + parts.begin[t]);
  }
  std::vector<int32_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  cpu::radix_sort(keys, &order, limit);

  auto rows = at::empty({count}, indices[0].options());
  int32_t* row = rows.mutable_data_ptr<int32_t>();
  std::vector<uint64_t> cells;
  cells.reserve(count);
  for (int64_t i = 0; i < count; i++) {
    if (i == 0 || keys[i] != keys[i - 1]) {
      cells.push_back(keys[i]);
    } else if (const int64_t t = parts.of(order[i]); order[i - 1] >= parts.begin[t]) {
      // The sort is stable: a voxel that a tensor names twice is there twice in a row.
      const int32_t* voxel =
          contiguous[t].const_data_ptr<int32_t>() + (order[i] - parts.begin[t]) * width;
      fail_twins(voxel, width, order[i - 1] - parts.begin[t], order[i] - parts.begin[t],
                 " of tensor " + std::to_string(t));
    }
    row[order[i]] = static_cast<int32_t>(cells.size() - 1);
  }
  auto out = at::empty({static_cast<int64_t>(cells.size()), width}, indices[0].options());
  int32_t* voxel = out.mutable_data_ptr<int32_t>();
  at::parallel_for(0, cells.size(), 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      uint64_t rest = cells[i];
      for (int64_t d = width - 1; d > 0; rest /= spatial_shape[--d])
        voxel[i * width + d] = static_cast<int32_t>(rest % spatial_shape[d - 1]);
      voxel[i * width] = static_cast<int32_t>(rest);
    }
  });
  return {out, rows};
}

template <typename T>
void sum_in(const std::vector<at::Tensor>& features, const std::vector<int32_t>& source,
            at::Tensor& out) {
  const int64_t num_out = out.size(0), channels = out.size(1), tensors = features.size();
  std::vector<const T*> from;
  for (const at::Tensor& tensor : features) from.push_back(tensor.const_data_ptr<T>());
  T* data = out.mutable_data_ptr<T>();
  at::parallel_for(0, num_out, 512, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; m++) {
      T* __restrict to = data + m * channels;
      bool first = true;
      for (int64_t t = 0; t < tensors; t++) {
        const int64_t row = source[t * num_out + m];
        if (row < 0) continue;
        const T* __restrict in = from[t] + row * channels;
        if (first)
          std::copy_n(in, channels, to);
        else
          for (int64_t c = 0; c < channels; c++) to[c] += in[c];
        first = false;
      }
      if (first) std::fill_n(to, channels, T(0));
    }
  });
}

at::Tensor sum_cpu(at::TensorList features, const at::Tensor& rows, int64_t num_out) {
  check_sum(features, rows, num_out);
  const Parts parts(features);
  const at::Tensor all_rows = rows.contiguous();
  const int32_t* row = all_rows.const_data_ptr<int32_t>();
  // The row of each tensor that an output row takes, or -1.
  std::vector<int32_t> source(features.size() * num_out, -1);
  for (size_t t = 0; t < features.size(); t++)
    for (int64_t n = 0; n < features[t].size(0); n++) {
      const int64_t to = row[parts.begin[t] + n];
      TORCH_CHECK_VALUE(to >= 0 && to < num_out, "rows must be 0 to num_out - 1, ", num_out - 1,
                        ", and one was ", to);
      int32_t& place = source[t * num_out + to];
      TORCH_CHECK_VALUE(place < 0, "rows must differ within a tensor, and ", to,
                        " is there twice in tensor ", t);
      place = static_cast<int32_t>(n);
    }
  return cpu::with_compute_type(features[0], [&](auto number, const auto& convert) {
    std::vector<at::Tensor> in;
    for (const at::Tensor& tensor : features) in.push_back(convert(tensor));
    auto out = cpu::empty_output({num_out, features[0].size(1)}, in[0].options());
    sum_in<decltype(number)>(in, source, out);
    return out.to(features[0].scalar_type());
  });
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, CPU, m) {
  m.impl("sparse_union", TORCH_FN(union_cpu));
  m.impl("sparse_sum", TORCH_FN(sum_cpu));
}

}  // namespace mxd::sparse_add
