// Features gathered by lists of points on the CPU, and their gradients. A row of features, that of
// one channel, is read and written by one thread: no two threads add to one number.
#include <ATen/Parallel.h>

#include <vector>

#include "../../ops/cpu/compute_type.h"
#include "check_shape.h"
#include "cpu_ops.h"
#include "output.h"

namespace mxd::mmcv_registry::cpu {
namespace {

using mxd::cpu::with_compute_type;

/// idx: int32, each a row below `count`.
at::Tensor checked_rows(const Tensor& idx, int64_t count) {
  const auto rows = idx.contiguous();
  const int* row = rows.const_data_ptr<int>();
  bool inside = true;
  for (int64_t i = 0; i < rows.numel(); i++) inside &= 0 <= row[i] && row[i] < count;
  TORCH_CHECK_INDEX(inside, "idx must be rows of the ", count, " points, and has others");
  return rows;
}

/// Rows that are worth a thread, each of `numbers` numbers.
int64_t grain(int64_t numbers) {
  return std::max<int64_t>(1, 16384 / std::max<int64_t>(numbers, 1));
}

/// points [B, C, n] at idx [B, count] to out [B, C, count].
void gather(int64_t batches, int64_t channels, int64_t n, int64_t count, const Tensor& points,
            const Tensor& idx, const Tensor& out) {
  const auto rows = checked_rows(idx, n);
  const int* row = rows.const_data_ptr<int>();
  MXD_DISPATCH_FLOAT(out.scalar_type(), "gather_points", [&] {
    const auto from = input<scalar_t>(points);
    Output<scalar_t> to(out);
    const scalar_t* given = from.template const_data_ptr<scalar_t>();
    scalar_t* written = to.data();
    at::parallel_for(0, batches * channels, grain(count), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        const int* taken = row + i / channels * count;
        for (int64_t k = 0; k < count; k++) written[i * count + k] = given[i * n + taken[k]];
      }
    });
  });
}

/// Adds grad_out [B, C, count] to grad_points [B, C, n] at idx [B, count].
void scatter(int64_t batches, int64_t channels, int64_t n, int64_t count, const Tensor& grad_out,
             const Tensor& idx, const Tensor& grad_points) {
  const auto rows = checked_rows(idx, n);
  const int* row = rows.const_data_ptr<int>();
  with_compute_type(grad_points, [&](auto number, const auto& convert) {
    using T = decltype(number);
    const auto grad = convert(grad_out);
    Output<T> sum(grad_points);
    const T* given = grad.template const_data_ptr<T>();
    T* written = sum.data();
    at::parallel_for(0, batches * channels, grain(count), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        const int* taken = row + i / channels * count;
        for (int64_t k = 0; k < count; k++) written[i * n + taken[k]] += given[i * count + k];
      }
    });
  });
}

/// Stacked batches: the row of features [N, C] of each number of idx [M, nsample], whose rows count
/// from the first of their batch. -1 for what is outside of its batch: such a number takes nothing.
std::vector<int64_t> stacked_rows(const Tensor& idx, const Tensor& idx_batch_cnt, int64_t features,
                                  const Tensor& features_batch_cnt) {
  const auto numbers = idx.contiguous(), idx_counts = idx_batch_cnt.contiguous(),
             feature_counts = features_batch_cnt.contiguous();
  check_int32_shape("features_batch_cnt", feature_counts, idx_counts.sizes());
  check_counts("idx_batch_cnt", idx_counts, "idx", idx.size(0));
  check_counts("features_batch_cnt", feature_counts, "features", features);
  const int* number = numbers.const_data_ptr<int>();
  std::vector<int64_t> rows;
  rows.reserve(numbers.numel());
  int64_t first = 0;
  for (int64_t batch = 0; batch < idx_counts.numel(); batch++) {
    const int count = feature_counts.const_data_ptr<int>()[batch];
    const int64_t last = rows.size() + idx_counts.const_data_ptr<int>()[batch] * numbers.size(1);
    while (static_cast<int64_t>(rows.size()) < last) {
      const int within = number[rows.size()];
      rows.push_back(0 <= within && within < count ? first + within : -1);
    }
    first += count;
  }
  return rows;
}

}  // namespace

void gather_points_forward(int b, int c, int n, int npoints, Tensor points, Tensor idx,
                           Tensor out) {
  check_float("points", points);
  check_shape("points", points, {b, c, n});
  check_int32_shape("idx", idx, {b, npoints});
  check_shape("out", out, {b, c, npoints});
  gather(b, c, n, npoints, points, idx, out);
}

void gather_points_backward(int b, int c, int n, int npoints, Tensor grad_out, Tensor idx,
                            Tensor grad_points) {
  check_float("grad_out", grad_out);
  check_shape("grad_out", grad_out, {b, c, npoints});
  check_int32_shape("idx", idx, {b, npoints});
  check_shape("grad_points", grad_points, {b, c, n});
  scatter(b, c, n, npoints, grad_out, idx, grad_points);
}

void group_points_forward(int b, int c, int n, int npoints, int nsample, Tensor points, Tensor idx,
                          Tensor out) {
  check_float("points", points);
  check_shape("points", points, {b, c, n});
  check_int32_shape("idx", idx, {b, npoints, nsample});
  check_shape("out", out, {b, c, npoints, nsample});
  gather(b, c, n, int64_t{npoints} * nsample, points, idx, out);
}

void group_points_backward(int b, int c, int n, int npoints, int nsample, Tensor grad_out,
                           Tensor idx, Tensor grad_points) {
  check_float("grad_out", grad_out);
  check_shape("grad_out", grad_out, {b, c, npoints, nsample});
  check_int32_shape("idx", idx, {b, npoints, nsample});
  check_shape("grad_points", grad_points, {b, c, n});
  scatter(b, c, n, int64_t{npoints} * nsample, grad_out, idx, grad_points);
}

void stack_group_points_forward(int b, int c, int m, int nsample, Tensor features,
                                Tensor features_batch_cnt, Tensor idx, Tensor idx_batch_cnt,
                                Tensor out) {
  check_float("features", features);
  check_shape("features", features, {features.size(0), c});
  check_int32_shape("idx", idx, {m, nsample});
  check_int32_shape("idx_batch_cnt", idx_batch_cnt, {b});
  check_shape("out", out, {m, c, nsample});
  const auto rows = stacked_rows(idx, idx_batch_cnt, features.size(0), features_batch_cnt);
  const int64_t channels = c, samples = nsample;
  MXD_DISPATCH_FLOAT(out.scalar_type(), "stack_group_points", [&] {
    const auto from = input<scalar_t>(features);
    Output<scalar_t> to(out);
    const scalar_t* given = from.template const_data_ptr<scalar_t>();
    scalar_t* written = to.data();
    at::parallel_for(0, m, grain(channels * samples), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++)
        for (int64_t k = 0; k < samples; k++) {
          const int64_t row = rows[i * samples + k];
          if (row < 0) continue;
          for (int64_t ch = 0; ch < channels; ch++)
            written[(i * channels + ch) * samples + k] = given[row * channels + ch];
        }
    });
  });
}

void stack_group_points_backward(int b, int c, int m, int n, int nsample, Tensor grad_out,
                                 Tensor idx, Tensor idx_batch_cnt, Tensor features_batch_cnt,
                                 Tensor grad_features) {
  check_float("grad_out", grad_out);
  check_shape("grad_out", grad_out, {m, c, nsample});
  check_int32_shape("idx", idx, {m, nsample});
  check_int32_shape("idx_batch_cnt", idx_batch_cnt, {b});
  check_shape("grad_features", grad_features, {n, c});
  const auto rows = stacked_rows(idx, idx_batch_cnt, n, features_batch_cnt);
  const int64_t channels = c, samples = nsample;
  with_compute_type(grad_features, [&](auto number, const auto& convert) {
    using T = decltype(number);
    const auto grad = convert(grad_out);
    Output<T> sum(grad_features);
    const T* given = grad.template const_data_ptr<T>();
    T* written = sum.data();
    constexpr int64_t kChannels = 64 / sizeof(T);  // of a cache line: no two threads share one
    const int64_t parts = (channels + kChannels - 1) / kChannels;
    at::parallel_for(0, parts, grain(kChannels * rows.size()), [&](int64_t begin, int64_t end) {
      const int64_t stop = std::min(channels, end * kChannels);
      for (int64_t i = 0; i < m; i++)
        for (int64_t k = 0; k < samples; k++) {
          const int64_t row = rows[i * samples + k];
          if (row < 0) continue;
          for (int64_t ch = begin * kChannels; ch < stop; ch++)
            written[row * channels + ch] += given[(i * channels + ch) * samples + k];
        }
    });
  });
}

void three_interpolate_forward(int b, int c, int m, int n, Tensor points, Tensor idx, Tensor weight,
                               Tensor out) {
  check_float("points", points);
  check_shape("points", points, {b, c, m});
  check_int32_shape("idx", idx, {b, n, 3});
  check_shape("weight", weight, {b, n, 3});
  check_shape("out", out, {b, c, n});
  const auto rows = checked_rows(idx, m);
  const int* row = rows.const_data_ptr<int>();
  const int64_t channels = c, count = n, known = m;
  with_compute_type(out, [&](auto number, const auto& convert) {
    using T = decltype(number);
    const auto from = convert(points), weights = convert(weight);
    Output<T> to(out);
    const T *given = from.template const_data_ptr<T>(),
            *share = weights.template const_data_ptr<T>();
    T* written = to.data();
    at::parallel_for(0, b * channels, grain(3 * count), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t first = i / channels * 3 * count;
        const int* taken = row + first;
        const T *w = share + first, *value = given + i * known;
        for (int64_t k = 0; k < count; k++)
          written[i * count + k] = w[3 * k] * value[taken[3 * k]] +
                                   w[3 * k + 1] * value[taken[3 * k + 1]] +
                                   w[3 * k + 2] * value[taken[3 * k + 2]];
      }
    });
  });
}

void three_interpolate_backward(int b, int c, int n, int m, Tensor grad_out, Tensor idx,
                                Tensor weight, Tensor grad_points) {
  check_float("grad_out", grad_out);
  check_shape("grad_out", grad_out, {b, c, n});
  check_int32_shape("idx", idx, {b, n, 3});
  check_shape("weight", weight, {b, n, 3});
  check_shape("grad_points", grad_points, {b, c, m});
  const auto rows = checked_rows(idx, m);
  const int* row = rows.const_data_ptr<int>();
  const int64_t channels = c, count = n, known = m;
  with_compute_type(grad_points, [&](auto number, const auto& convert) {
    using T = decltype(number);
    const auto grad = convert(grad_out), weights = convert(weight);
    Output<T> sum(grad_points);
    const T *given = grad.template const_data_ptr<T>(),
            *share = weights.template const_data_ptr<T>();
    T* written = sum.data();
    at::parallel_for(0, b * channels, grain(3 * count), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t first = i / channels * 3 * count;
        for (int64_t k = 0; k < 3 * count; k++)
          written[i * known + row[first + k]] += given[i * count + k / 3] * share[first + k];
      }
    });
  });
}

}  // namespace mxd::mmcv_registry::cpu
