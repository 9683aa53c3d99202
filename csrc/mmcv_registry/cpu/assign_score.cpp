// PAConv's assignment of scores on the CPU: for each neighbour the sum over the M weights of its
// score times the difference of the features of the neighbour and of the centre, which is the first
// neighbour. The inner loops run along the output channels. As in mmcv's CUDA kernel `aggregate` is
// not used, and a neighbour whose number is no point counts nothing.
#include <ATen/Parallel.h>

#include <vector>

#include "../../ops/cpu/compute_type.h"
#include "check_shape.h"
#include "cpu_ops.h"
#include "output.h"
#include "planes.h"

namespace mxd::mmcv_registry::cpu {
namespace {

using mxd::cpu::with_compute_type;

/// The sizes: batches, points, centres, weights, neighbours, output channels.
struct Sizes {
  int64_t batches, points, centres, weights, neighbours, channels;

  int64_t row() const { return weights * channels; }  // numbers of a point's features
};

/// The points that centre i and its neighbour k are; -1 for a neighbour that is no point.
struct Neighbours {
  at::Tensor idx;
  Sizes size;

  Neighbours(const Tensor& knn_idx, const Sizes& size) : idx(knn_idx.contiguous()), size(size) {
    check_int64("knn_idx", idx);
    check_shape("knn_idx", idx, {size.batches, size.centres, size.neighbours});
    for (int64_t i = 0; i < size.batches * size.centres; i++) {
      bool any = false;
      for (int64_t k = 0; k < size.neighbours; k++) any |= point(i, k) >= 0;
      TORCH_CHECK_INDEX(!any || point(i, 0) >= 0, "knn_idx must have a centre among the ",
                        size.points, " points first, was ",
                        idx.const_data_ptr<int64_t>()[i * size.neighbours]);
    }
  }

  /// The row of the features of all batches.
  int64_t point(int64_t i, int64_t k) const {
    const int64_t number = idx.const_data_ptr<int64_t>()[i * size.neighbours + k];
    return 0 <= number && number < size.points ? i / size.centres * size.points + number : -1;
  }
};

void check_features(const Sizes& size, const Tensor& points, const Tensor& centers,
                    const Tensor& scores) {
  check_float("points", points);
  check_shape("points", points, {size.batches, size.points, size.weights, size.channels});
  check_shape("centers", centers, points.sizes());
  check_shape("scores", scores, {size.batches, size.centres, size.neighbours, size.weights});
}

int64_t grain(int64_t numbers) {
  return std::max<int64_t>(1, 16384 / std::max<int64_t>(numbers, 1));
}

}  // namespace

void assign_score_withk_forward(int B, int N0, int N1, int M, int K, int O, int /* aggregate */,
                                const Tensor& points, const Tensor& centers, const Tensor& scores,
                                const Tensor& knn_idx, Tensor& output) {
  const Sizes size{B, N0, N1, M, K, O};
  check_features(size, points, centers, scores);
  check_shape("output", output, {B, O, N1, K});
  const Neighbours neighbours(knn_idx, size);
  with_compute_type(points, [&](auto number, const auto& convert) {
    using T = decltype(number);
    const auto all = convert(points), middles = convert(centers), shares = convert(scores);
    const T *point = all.template const_data_ptr<T>(),
            *centre = middles.template const_data_ptr<T>(),
            *share = shares.template const_data_ptr<T>();
    Output<T> sum(output);
    T* written = sum.data();
    at::parallel_for(
        0, size.batches * size.centres, grain(size.neighbours * size.row()),
        [&](int64_t begin, int64_t end) {
          std::vector<T> sums(size.channels);
          T* total = sums.data();
          run_widest<Inlined>([&]() MXD_INLINED {
            for (int64_t i = begin; i < end; i++) {
              for (int64_t k = 0; k < size.neighbours; k++) {
                const int64_t row = neighbours.point(i, k);
                if (row < 0) continue;
                const T *p = point + row * size.row(),
                        *c = centre + neighbours.point(i, 0) * size.row();
                T* out = written +
                         i / size.centres * size.channels * size.centres * size.neighbours +
                         i % size.centres * size.neighbours + k;
                std::fill_n(total, size.channels, T{0});
                for (int64_t m = 0; m < size.weights; m++) {
                  const T score = share[(i * size.neighbours + k) * size.weights + m];
#pragma omp simd
                  for (int64_t o = 0; o < size.channels; o++)
                    total[o] += score * (p[m * size.channels + o] - c[m * size.channels + o]);
                }
                for (int64_t o = 0; o < size.channels; o++)
                  out[o * size.centres * size.neighbours] += total[o];
              }
            }
          });
        });
  });
}

void assign_score_withk_backward(int B, int N0, int N1, int M, int K, int O, int /* aggregate */,
                                 const Tensor& grad_out, const Tensor& points,
                                 const Tensor& centers, const Tensor& scores, const Tensor& knn_idx,
                                 Tensor& grad_points, Tensor& grad_centers, Tensor& grad_scores) {
  const Sizes size{B, N0, N1, M, K, O};
  check_features(size, points, centers, scores);
  check_shape("grad_out", grad_out, {B, O, N1, K});
  check_shape("grad_points", grad_points, points.sizes());
  check_shape("grad_centers", grad_centers, centers.sizes());
  check_shape("grad_scores", grad_scores, scores.sizes());
  const Neighbours neighbours(knn_idx, size);
  with_compute_type(points, [&](auto number, const auto& convert) {
    using T = decltype(number);
    const auto all = convert(points), middles = convert(centers), shares = convert(scores),
               grads = convert(grad_out.permute({0, 2, 3, 1}));  // [B, N1, K, O]
    const T *point = all.template const_data_ptr<T>(),
            *centre = middles.template const_data_ptr<T>(),
            *share = shares.template const_data_ptr<T>(),
            *grad = grads.template const_data_ptr<T>();
    Output<T> point_sums(grad_points), centre_sums(grad_centers), score_sums(grad_scores);
    T *to_points = point_sums.data(), *to_centres = centre_sums.data(),
      *to_scores = score_sums.data();
    // A thread has its own batches and weights: no two threads add to one number.
    at::parallel_for(0, size.batches * size.weights, 1, [&](int64_t begin, int64_t end) {
      run_widest<Inlined>([&]() MXD_INLINED {
        for (int64_t unit = begin; unit < end; unit++) {
          const int64_t m = unit % size.weights, first = unit / size.weights * size.centres;
          for (int64_t i = first; i < first + size.centres; i++)
            for (int64_t k = 0; k < size.neighbours; k++) {
              const int64_t row = neighbours.point(i, k);
              if (row < 0) continue;
              const T score = share[(i * size.neighbours + k) * size.weights + m];
              const T* g = grad + (i * size.neighbours + k) * size.channels;
              T *p = to_points + row * size.row() + m * size.channels,
                *c = to_centres + neighbours.point(i, 0) * size.row() + m * size.channels;
              for (int64_t o = 0; o < size.channels; o++) p[o] += score * g[o];
              for (int64_t o = 0; o < size.channels; o++) c[o] -= score * g[o];
            }
        }
      });
    });
    at::parallel_for(0, size.batches * size.centres, grain(size.neighbours * size.row()),
                     [&](int64_t begin, int64_t end) {
                       run_widest<Inlined>([&]() MXD_INLINED {
                         for (int64_t i = begin; i < end; i++)
                           for (int64_t k = 0; k < size.neighbours; k++) {
                             const int64_t row = neighbours.point(i, k);
                             if (row < 0) continue;
                             const T *p = point + row * size.row(),
                                     *c = centre + neighbours.point(i, 0) * size.row(),
                                     *g = grad + (i * size.neighbours + k) * size.channels;
                             for (int64_t m = 0; m < size.weights; m++) {
                               T sum = 0;
#pragma omp simd reduction(+ : sum)
                               for (int64_t o = 0; o < size.channels; o++)
                                 sum +=
                                     (p[m * size.channels + o] - c[m * size.channels + o]) * g[o];
                               to_scores[(i * size.neighbours + k) * size.weights + m] += sum;
                             }
                           }
                       });
                     });
  });
}

}  // namespace mxd::mmcv_registry::cpu
