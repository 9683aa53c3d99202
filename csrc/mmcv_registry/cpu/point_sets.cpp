// Sampling of points and search for near ones on the CPU. The distances from one point to a block
// of others are computed at once; only blocks with a hit are looked through one by one.
#include <ATen/Parallel.h>

#include <cmath>
#include <limits>
#include <vector>

#include "../../ops/cpu/compute_type.h"
#include "../in_threes.h"
#include "check_shape.h"
#include "cpu_ops.h"
#include "output.h"
#include "planes.h"

namespace mxd::mmcv_registry::cpu {
namespace {

using mxd::cpu::with_compute_type;

// ---- Furthest point sampling.

/// Which of equally far points mmcv's CUDA kernel takes. Its T threads look at every T-th point
/// each, and halve their number in a tree in which the lower one wins: so the first is the point
/// whose thread number, its bits reversed, is least.
class Priority {
 public:
  explicit Priority(int64_t count) {
    const int exponent = static_cast<int>(std::log(static_cast<double>(count)) / std::log(2.0));
    bits_ = std::min(exponent, 10);
  }

  /// The less, the earlier.
  int64_t of(int64_t point) const {
    int64_t reversed = 0;
    for (int bit = 0; bit < bits_; bit++) reversed = reversed << 1 | (point >> bit & 1);
    return reversed << 40 | point >> bits_;
  }

 private:
  int bits_;
};

constexpr int64_t kSpan = 512;   // points of which the greatest distance is kept
constexpr int64_t kSpans = 128;  // spans that are worth a thread

/// Sample m of n points. `from(point)` gives the function of its distances to all others; `temp`
/// holds the distance of each point to the nearest one of the sample.
template <typename From>
void sample(int64_t n, int64_t m, float* temp, int* idx, const From& from) {
  const Priority priority(n);
  std::vector<float> most((n + kSpan - 1) / kSpan);
  int64_t last = 0;
  for (int64_t j = 0; j < m; j++) {
    idx[j] = static_cast<int>(last);
    if (j == m - 1) break;
    const auto distance = from(last);
    at::parallel_for(0, most.size(), kSpans, [&](int64_t first, int64_t end) {
      run_widest<Inlined>([&]() MXD_INLINED {
        for (int64_t span = first; span < end; span++) {
          float greatest = -1;
          const int64_t stop = std::min(n, (span + 1) * kSpan);
#pragma omp simd reduction(max : greatest)
          for (int64_t k = span * kSpan; k < stop; k++) {
            const float d = distance(k), nearest = d < temp[k] ? d : temp[k];
            temp[k] = nearest;
            greatest = nearest > greatest ? nearest : greatest;
          }
          most[span] = greatest;
        }
      });
    });
    const float greatest = *std::max_element(most.begin(), most.end());
    last = 0;
    int64_t least = std::numeric_limits<int64_t>::max();
    for (int64_t span = 0; greatest > -1 && span < static_cast<int64_t>(most.size()); span++) {
      if (most[span] != greatest) continue;
      for (int64_t k = span * kSpan; k < std::min(n, (span + 1) * kSpan); k++) {
        if (temp[k] != greatest || priority.of(k) >= least) continue;
        least = priority.of(k);
        last = k;
      }
    }
  }
}

void check_sampling(const Tensor& temp, const Tensor& idx, int b, int n, int m) {
  check_shape("temp", temp, {b, n});
  check_int32_shape("idx", idx, {b, m});
  TORCH_CHECK_VALUE(n > 0 || m == 0 || b == 0,
                    "points must have at least one point to sample, had "
                    "none");
}

// ---- Near points.

/// Centres that are worth a thread, each beside `points` points.
int64_t grain(int64_t points) { return std::max<int64_t>(1, 65536 / std::max<int64_t>(points, 1)); }

/// Writes the numbers of the first points that are near; what is left repeats the first one.
///
/// Returns: whether there was one.
template <typename T, typename Near>
MXD_INLINE bool first_near(const T* x, int64_t stride, const T* from, const Near& is_near,
                           int nsample, int* out) {
  int count = 0;
  for_each_near_point(x, stride, from, is_near, [&](int point, T) MXD_INLINED {
    if (count == 0) std::fill_n(out, nsample, point);
    out[count++] = point;
    return count < nsample;
  });
  return count > 0;
}

/// Restore the order of a heap whose greatest number is first, after its root was exchanged. As in
/// mmcv's CUDA kernel an equal child goes up, which decides the order of equally near points.
template <typename Index>
MXD_INLINE void sift_down(float* distance, Index* idx, int count) {
  for (int root = 0, child = 1; child < count; child = 2 * root + 1) {
    if (child + 1 < count && distance[child + 1] > distance[child]) child++;
    if (distance[root] > distance[child]) return;
    std::swap(distance[root], distance[child]);
    std::swap(idx[root], idx[child]);
    root = child;
  }
}

constexpr int kMostNeighbours = 100;  // of knn

}  // namespace

void furthest_point_sampling(Tensor points, Tensor temp, Tensor idx, int b, int n, int m) {
  check_float("points", points);
  check_shape("points", points, {b, n, 3});
  check_sampling(temp, idx, b, n, m);
  const auto coordinates = points.to(at::kFloat).transpose(1, 2).contiguous();
  Output<float> nearest(temp);
  Output<int> sampled(idx);
  const float* xyz = coordinates.const_data_ptr<float>();
  float* distances = nearest.data();
  int* out = sampled.data();
  at::parallel_for(0, b, 1, [&](int64_t begin, int64_t end) {
    for (int64_t batch = begin; batch < end; batch++) {
      const float *x = xyz + batch * 3 * n, *y = x + n, *z = y + n;
      sample(n, m, distances + batch * n, out + batch * m, [=](int64_t from) {
        const float from_x = x[from], from_y = y[from], from_z = z[from];
        return [=](int64_t k) MXD_INLINED {
          const float dx = x[k] - from_x, dy = y[k] - from_y, dz = z[k] - from_z;
          return dx * dx + dy * dy + dz * dz;
        };
      });
    }
  });
}

void furthest_point_sampling_with_dist(Tensor points_dist, Tensor temp, Tensor idx, int b, int n,
                                       int m) {
  check_float("points_dist", points_dist);
  check_shape("points_dist", points_dist, {b, n, n});
  check_sampling(temp, idx, b, n, m);
  const auto given = input<float>(points_dist);
  Output<float> nearest(temp);
  Output<int> sampled(idx);
  const int64_t count = n;
  const float* all = given.const_data_ptr<float>();
  float* distances = nearest.data();
  int* out = sampled.data();
  at::parallel_for(0, b, 1, [&](int64_t begin, int64_t end) {
    for (int64_t batch = begin; batch < end; batch++)
      sample(count, m, distances + batch * count, out + batch * m, [=](int64_t from) {
        const float* row = all + (batch * count + from) * count;
        return [=](int64_t k) MXD_INLINED { return row[k]; };
      });
  });
}

void ball_query(int b, int n, int m, float min_radius, float max_radius, int nsample,
                Tensor new_xyz, Tensor xyz, Tensor idx) {
  check_float("new_xyz", new_xyz);
  check_shape("new_xyz", new_xyz, {b, m, 3});
  check_shape("xyz", xyz, {b, n, 3});
  check_int32_shape("idx", idx, {b, m, nsample});
  if (nsample == 0) return;
  const float least = min_radius * min_radius, most = max_radius * max_radius;
  Output<int> found(idx);
  int* out = found.data();
  with_compute_type(new_xyz, [&](auto number, const auto& convert) {
    using T = decltype(number);
    const auto centres = convert(new_xyz), points = planes<T>(xyz);
    const int64_t stride = points.size(2);
    const T *from = centres.template const_data_ptr<T>(),
            *all = points.template const_data_ptr<T>();
    const auto is_near = [=](T d) MXD_INLINED { return (d == 0) | ((d >= least) & (d < most)); };
    at::parallel_for(0, int64_t{b} * m, grain(n), [&](int64_t begin, int64_t end) {
      run_widest<Inlined>([&]() MXD_INLINED {
        for (int64_t i = begin; i < end; i++)
          first_near(all + i / m * 3 * stride, stride, from + 3 * i, is_near, nsample,
                     out + i * nsample);
      });
    });
  });
}

void stack_ball_query(float max_radius, int nsample, Tensor new_xyz, Tensor new_xyz_batch_cnt,
                      Tensor xyz, Tensor xyz_batch_cnt, Tensor idx) {
  check_float("new_xyz", new_xyz);
  const int64_t batches = xyz_batch_cnt.size(0), m = new_xyz.size(0), n = xyz.size(0);
  check_shape("new_xyz", new_xyz, {m, 3});
  check_shape("xyz", xyz, {n, 3});
  xyz_batch_cnt = xyz_batch_cnt.contiguous();
  new_xyz_batch_cnt = new_xyz_batch_cnt.contiguous();
  check_int32_shape("xyz_batch_cnt", xyz_batch_cnt, {batches});
  check_int32_shape("new_xyz_batch_cnt", new_xyz_batch_cnt, {batches});
  check_int32_shape("idx", idx, {m, nsample});
  check_counts("xyz_batch_cnt", xyz_batch_cnt, "xyz", n);
  check_counts("new_xyz_batch_cnt", new_xyz_batch_cnt, "new_xyz", m);
  if (nsample == 0) return;
  const float most = max_radius * max_radius;
  Output<int> found(idx);
  int* out = found.data();
  with_compute_type(new_xyz, [&](auto number, const auto& convert) {
    using T = decltype(number);
    const auto centres = convert(new_xyz);
    const T* from = centres.template const_data_ptr<T>();
    const auto is_near = [=](T d) MXD_INLINED { return d < most; };
    int64_t first_point = 0, first_centre = 0;
    for (int64_t batch = 0; batch < batches; batch++) {
      const int64_t count = xyz_batch_cnt.const_data_ptr<int>()[batch];
      const int64_t last = first_centre + new_xyz_batch_cnt.const_data_ptr<int>()[batch];
      const auto points = planes<T>(xyz.narrow(0, first_point, count));
      const T* all = points.template const_data_ptr<T>();
      at::parallel_for(first_centre, last, grain(count), [&](int64_t begin, int64_t end) {
        run_widest<Inlined>([&]() MXD_INLINED {
          for (int64_t i = begin; i < end; i++) {
            int* row = out + i * nsample;
            if (!first_near(all, points.size(1), from + 3 * i, is_near, nsample, row)) row[0] = -1;
          }
        });
      });
      first_point += count;
      first_centre = last;
    }
  });
}

void knn(int b, int n, int m, int nsample, Tensor xyz, Tensor new_xyz, Tensor idx, Tensor dist2) {
  check_float("new_xyz", new_xyz);
  xyz = in_threes(xyz, b, n);
  new_xyz = in_threes(new_xyz, b, m);
  check_shape("new_xyz", new_xyz, {b, m, 3});
  check_shape("xyz", xyz, {b, n, 3});
  check_int32_shape("idx", idx, {b, m, nsample});
  check_shape("dist2", dist2, {b, m, nsample});
  TORCH_CHECK_VALUE(0 < nsample && nsample <= kMostNeighbours, "k must be 1 to ", kMostNeighbours,
                    ", was ", nsample);
  Output<int> found(idx);
  Output<float> found_distances(dist2);
  int* out = found.data();
  float* out_distances = found_distances.data();
  with_compute_type(new_xyz, [&](auto number, const auto& convert) {
    using T = decltype(number);
    const auto centres = convert(new_xyz), points = planes<T>(xyz);
    const int64_t stride = points.size(2);
    const T *from = centres.template const_data_ptr<T>(),
            *all = points.template const_data_ptr<T>();
    at::parallel_for(0, int64_t{b} * m, grain(n), [&](int64_t begin, int64_t end) {
      run_widest<Inlined>([&]() MXD_INLINED {
        for (int64_t i = begin; i < end; i++) {
          float* distances = out_distances + i * nsample;
          int* neighbours = out + i * nsample;
          std::fill_n(distances, nsample, 1e10F);
          std::fill_n(neighbours, nsample, 0);
          for_each_near_point(
              all + i / m * 3 * stride, stride, from + 3 * i,
              [&](T d) MXD_INLINED { return d < distances[0]; },
              [&](int point, T d) MXD_INLINED {
                distances[0] = static_cast<float>(d);
                neighbours[0] = point;
                sift_down(distances, neighbours, nsample);
                return true;
              });
          for (int last = nsample - 1; last > 0; last--) {
            std::swap(distances[0], distances[last]);
            std::swap(neighbours[0], neighbours[last]);
            sift_down(distances, neighbours, last);
          }
        }
      });
    });
  });
}

void three_nn(int b, int n, int m, Tensor unknown, Tensor known, Tensor dist2, Tensor idx) {
  check_float("unknown", unknown);
  unknown = in_threes(unknown, b, n);
  known = in_threes(known, b, m);
  check_shape("unknown", unknown, {b, n, 3});
  check_shape("known", known, {b, m, 3});
  check_int32_shape("idx", idx, {b, n, 3});
  check_shape("dist2", dist2, {b, n, 3});
  Output<int> found(idx);
  int* out = found.data();
  with_compute_type(unknown, [&](auto number, const auto& convert) {
    using T = decltype(number);
    const auto centres = convert(unknown), points = planes<T>(known);
    const int64_t stride = points.size(2);
    const T *from = centres.template const_data_ptr<T>(),
            *all = points.template const_data_ptr<T>();
    Output<T> found_distances(dist2);
    T* out_distances = found_distances.data();
    at::parallel_for(0, int64_t{b} * n, grain(m), [&](int64_t begin, int64_t end) {
      run_widest<Inlined>([&]() MXD_INLINED {
        for (int64_t i = begin; i < end; i++) {
          T* best = out_distances + 3 * i;
          int* point_of = out + 3 * i;
          std::fill_n(best, 3, std::numeric_limits<T>::infinity());
          std::fill_n(point_of, 3, 0);
          for_each_near_point(
              all + i / n * 3 * stride, stride, from + 3 * i,
              [&](T d) MXD_INLINED { return d < best[2]; },
              [&](int point, T d) MXD_INLINED {
                int place = 2;
                for (; place > 0 && d < best[place - 1]; place--) {
                  best[place] = best[place - 1];
                  point_of[place] = point_of[place - 1];
                }
                best[place] = d;
                point_of[place] = point;
                return true;
              });
        }
      });
    });
  });
}

}  // namespace mxd::mmcv_registry::cpu
