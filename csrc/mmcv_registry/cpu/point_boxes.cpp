// Points in 3-D boxes on the CPU, and features pooled by box. A box is x, y, z of the centre of its
// bottom, its sizes and its yaw. Points on its top or bottom are inside, points on its sides are
// not, as in mmcv. A block of points is compared with a box at once.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <cmath>
#include <vector>

#include "../../ops/cpu/compute_type.h"
#include "check_shape.h"
#include "cpu_ops.h"
#include "output.h"
#include "planes.h"

namespace mxd::mmcv_registry::cpu {
namespace {

using mxd::cpu::with_compute_type;

/// A box as points are compared with it.
template <typename T>
struct Box {
  T x, y, bottom, middle, half_length, half_width, half_height, cos, sin;

  explicit Box(const T* numbers)
      : x(numbers[0]),
        y(numbers[1]),
        bottom(numbers[2]),
        middle(numbers[2] + numbers[5] / 2),
        half_length(numbers[3] / 2),
        half_width(numbers[4] / 2),
        half_height(numbers[5] / 2),
        cos(std::cos(numbers[6])),
        sin(std::sin(numbers[6])) {}

  /// Along the box, from its centre.
  MXD_INLINE T along(T px, T py) const { return (px - x) * cos + (py - y) * sin; }
  MXD_INLINE T across(T px, T py) const { return (py - y) * cos - (px - x) * sin; }

  MXD_INLINE bool has(T px, T py, T pz) const {
    return (std::abs(pz - middle) <= half_height) & (std::abs(along(px, py)) < half_length) &
           (std::abs(across(px, py)) < half_width);
  }
};

template <typename T>
std::vector<Box<T>> boxes_of(const Tensor& boxes) {
  const auto numbers = input<T>(boxes);
  const T* box = numbers.template const_data_ptr<T>();
  std::vector<Box<T>> found;
  for (int64_t i = 0; i < numbers.numel() / 7; i++) found.emplace_back(box + 7 * i);
  return found;
}

/// Calls hit(number) for each point of planes x, y, z in a box, in their order, until it returns
/// false.
template <typename T, typename Hit>
MXD_INLINE void for_each_inside(const Box<T>& box, const T* x, int64_t stride, const Hit& hit) {
  const T *y = x + stride, *z = y + stride;
  for (int64_t block = 0; block < stride; block += kBlock) {
    const bool go_on = for_each_near(
        [&](int64_t i) MXD_INLINED { return box.has(x[block + i], y[block + i], z[block + i]); },
        [&](int64_t i) MXD_INLINED { return hit(static_cast<int>(block + i)); });
    if (!go_on) return;
  }
}

int64_t grain(int64_t numbers) {
  return std::max<int64_t>(1, 32768 / std::max<int64_t>(numbers, 1));
}

void check_points_and_boxes(int batch_size, int boxes_num, int pts_num, const Tensor& boxes,
                            const Tensor& pts) {
  check_float("boxes", boxes);
  check_float("pts", pts);
  check_shape("boxes", boxes, {batch_size, boxes_num, 7});
  check_shape("pts", pts, {batch_size, pts_num, 3});
}

/// The cell of a RoI, of `cells` along a side of this size, that a distance from its begin is in.
template <typename T>
int64_t cell_of(T distance, T size, int64_t cells) {
  const T cell = distance / (size / cells);
  return cell > 0 ? static_cast<int64_t>(std::min<T>(cell, cells - 1)) : 0;
}

}  // namespace

void points_in_boxes_part(int batch_size, int boxes_num, int pts_num, Tensor boxes, Tensor pts,
                          Tensor box_idx_of_points) {
  check_points_and_boxes(batch_size, boxes_num, pts_num, boxes, pts);
  check_int32_shape("box_idx_of_points", box_idx_of_points, {batch_size, pts_num});
  Output<int> found(box_idx_of_points);
  int* out = found.data();
  with_compute_type(pts, [&](auto number, const auto&) {
    using T = decltype(number);
    const auto all = boxes_of<T>(boxes);
    const auto points = planes<T>(pts);
    const T* point = points.template const_data_ptr<T>();
    const int64_t stride = points.size(2), blocks = stride / kBlock;
    at::parallel_for(
        0, batch_size * blocks, grain(kBlock * boxes_num), [&](int64_t begin, int64_t end) {
          run_widest<Inlined>([&]() MXD_INLINED {
            for (int64_t unit = begin; unit < end; unit++) {
              const int64_t batch = unit / blocks, start = unit % blocks * kBlock;
              const T *x = point + batch * 3 * stride + start, *y = x + stride, *z = y + stride;
              int first[kBlock];
              std::fill_n(first, kBlock, boxes_num);
              for (int k = boxes_num - 1; k >= 0; k--) {
                const Box<T> box = all[batch * boxes_num + k];
#pragma omp simd
                for (int64_t i = 0; i < kBlock; i++)
                  first[i] = box.has(x[i], y[i], z[i]) ? k : first[i];
              }
              int* row = out + batch * pts_num + start;
              for (int64_t i = 0; i < std::min(kBlock, pts_num - start); i++)
                if (first[i] < boxes_num) row[i] = first[i];
            }
          });
        });
  });
}

void points_in_boxes_all(int batch_size, int boxes_num, int pts_num, Tensor boxes, Tensor pts,
                         Tensor box_idx_of_points) {
  check_points_and_boxes(batch_size, boxes_num, pts_num, boxes, pts);
  check_int32_shape("box_idx_of_points", box_idx_of_points, {batch_size, pts_num, boxes_num});
  Output<int> found(box_idx_of_points);
  int* out = found.data();
  with_compute_type(pts, [&](auto number, const auto&) {
    using T = decltype(number);
    const auto all = boxes_of<T>(boxes);
    const auto points = planes<T>(pts);
    const T* point = points.template const_data_ptr<T>();
    const int64_t stride = points.size(2), blocks = stride / kBlock;
    at::parallel_for(
        0, batch_size * blocks, grain(kBlock * boxes_num), [&](int64_t begin, int64_t end) {
          run_widest<Inlined>([&]() MXD_INLINED {
            for (int64_t unit = begin; unit < end; unit++) {
              const int64_t batch = unit / blocks, start = unit % blocks * kBlock;
              int* rows = out + (batch * pts_num + start) * boxes_num;
              for (int64_t k = 0; k < boxes_num; k++) {
                const T *x = point + batch * 3 * stride + start, *y = x + stride, *z = y + stride;
                const Box<T> box = all[batch * boxes_num + k];
                for_each_near([&](int64_t i) MXD_INLINED { return box.has(x[i], y[i], z[i]); },
                              [&](int64_t i) MXD_INLINED {
                                rows[i * boxes_num + k] = 1;
                                return true;
                              });
              }
            }
          });
        });
  });
}

void roiaware_pool3d_forward(int boxes_num, int pts_num, int channels, int max_pts_each_voxel,
                             int out_x, int out_y, int out_z, Tensor rois, Tensor pts,
                             Tensor pts_feature, Tensor argmax, Tensor pts_idx_of_voxels,
                             Tensor pooled_features, int pool_method) {
  check_float("rois", rois);
  check_float("pts_feature", pts_feature);
  check_shape("rois", rois, {boxes_num, 7});
  check_shape("pts", pts, {pts_num, 3});
  check_shape("pts_feature", pts_feature, {pts_num, channels});
  check_int32_shape("argmax", argmax, {boxes_num, out_x, out_y, out_z, channels});
  check_int32_shape("pts_idx_of_voxels", pts_idx_of_voxels,
                    {boxes_num, out_x, out_y, out_z, max_pts_each_voxel});
  check_shape("pooled_features", pooled_features, argmax.sizes());
  TORCH_CHECK_VALUE(pool_method == 0 || pool_method == 1,
                    "pool_method must be 0 (max) or 1 (avg), "
                    "was ",
                    pool_method);
  TORCH_CHECK_VALUE(max_pts_each_voxel > 0, "max_pts_per_voxel must be at least 1, was ",
                    max_pts_each_voxel);
  Output<int> lists(pts_idx_of_voxels), found(argmax);
  int *list_of = lists.data(), *point_of = found.data();
  with_compute_type(pts_feature, [&](auto number, const auto& convert) {
    using T = decltype(number);
    const auto boxes = boxes_of<T>(rois);
    const auto points = planes<T>(pts), features = convert(pts_feature);
    const T *x = points.template const_data_ptr<T>(),
            *feature = features.template const_data_ptr<T>();
    const int64_t stride = points.size(1), voxels = int64_t{out_x} * out_y * out_z;
    Output<T> pooled(pooled_features);
    T* written = pooled.data();
    at::parallel_for(0, boxes_num, grain(pts_num), [&](int64_t begin, int64_t end) {
      std::vector<int64_t> filled;
      run_widest<Inlined>([&]() MXD_INLINED {
        for (int64_t roi = begin; roi < end; roi++) {
          const Box<T>& box = boxes[roi];
          // The list of a voxel: how many points, then these.
          filled.clear();
          int* lists_of_roi = list_of + roi * voxels * max_pts_each_voxel;
          for_each_inside(box, x, stride, [&](int point) MXD_INLINED {
            const T px = x[point], py = x[point + stride], pz = x[point + 2 * stride];
            const int64_t i = cell_of<T>(box.along(px, py) + box.half_length, 2 * box.half_length,
                                         out_x),
                          j = cell_of<T>(box.across(px, py) + box.half_width, 2 * box.half_width,
                                         out_y),
                          k = cell_of<T>(pz - box.bottom, 2 * box.half_height, out_z);
            const int64_t voxel = (i * out_y + j) * out_z + k;
            int* list = lists_of_roi + voxel * max_pts_each_voxel;
            if (list[0] < max_pts_each_voxel - 1) list[++list[0]] = point;
            if (list[0] == 1 && list[1] == point) filled.push_back(voxel);
            return true;
          });
          if (pool_method == 0)
            std::fill_n(point_of + roi * voxels * channels, voxels * channels, -1);
          // Lists of voxels without points are not even read: most are memory that nothing touched.
          for (const int64_t voxel : filled) {
            const int* list = lists_of_roi + voxel * max_pts_each_voxel;
            const int64_t place = (roi * voxels + voxel) * channels;
            T* out = written + place;
            if (pool_method == 0) {
              int* first = point_of + place;
              for (int n = 1; n <= list[0]; n++) {
                const T* row = feature + int64_t{list[n]} * channels;
#pragma omp simd
                for (int ch = 0; ch < channels; ch++) {
                  // Nothing is greater than -inf but numbers: NaN and -inf are no maximum.
                  const T most = first[ch] < 0 ? -std::numeric_limits<T>::infinity() : out[ch];
                  const bool more = row[ch] > most;
                  out[ch] = more ? row[ch] : out[ch];
                  first[ch] = more ? list[n] : first[ch];
                }
              }
            } else {
              std::fill_n(out, channels, T{0});
              for (int n = 1; n <= list[0]; n++) {
                const T* row = feature + int64_t{list[n]} * channels;
                for (int ch = 0; ch < channels; ch++) out[ch] += row[ch];
              }
              for (int ch = 0; ch < channels; ch++) out[ch] /= static_cast<T>(list[0]);
            }
          }
        }
      });
    });
  });
}

void roiaware_pool3d_backward(int boxes_num, int out_x, int out_y, int out_z, int channels,
                              int max_pts_each_voxel, Tensor pts_idx_of_voxels, Tensor argmax,
                              Tensor grad_out, Tensor grad_in, int pool_method) {
  check_float("grad_out", grad_out);
  check_shape("grad_out", grad_out, {boxes_num, out_x, out_y, out_z, channels});
  check_int32_shape("argmax", argmax, grad_out.sizes());
  check_int32_shape("pts_idx_of_voxels", pts_idx_of_voxels,
                    {boxes_num, out_x, out_y, out_z, max_pts_each_voxel});
  check_shape("grad_in", grad_in, {grad_in.size(0), channels});
  const auto points = argmax.contiguous(), lists = pts_idx_of_voxels.contiguous();
  const int *point_of = points.const_data_ptr<int>(), *list_of = lists.const_data_ptr<int>();
  with_compute_type(grad_in, [&](auto number, const auto& convert) {
    using T = decltype(number);
    const auto grads = convert(grad_out);
    const T* grad = grads.template const_data_ptr<T>();
    Output<T> sums(grad_in);
    T* sum = sums.data();
    const int64_t voxels = int64_t{boxes_num} * out_x * out_y * out_z;
    constexpr int64_t kChannels = 64 / sizeof(T);  // of a cache line: no two threads share one
    const int64_t parts = (channels + kChannels - 1) / kChannels;
    at::parallel_for(0, parts, grain(voxels), [&](int64_t begin, int64_t end) {
      const int64_t first = begin * kChannels, stop = std::min<int64_t>(channels, end * kChannels);
      for (int64_t voxel = 0; voxel < voxels; voxel++) {
        const T* g = grad + voxel * channels;
        if (pool_method == 0) {
          const int* point = point_of + voxel * channels;
          for (int64_t ch = first; ch < stop; ch++)
            if (point[ch] >= 0) sum[int64_t{point[ch]} * channels + ch] += g[ch];
        } else {
          const int* list = list_of + voxel * max_pts_each_voxel;
          const T share = T{1} / static_cast<T>(std::max(list[0], 1));
          for (int n = 1; n <= list[0]; n++)
            for (int64_t ch = first; ch < stop; ch++)
              sum[int64_t{list[n]} * channels + ch] += g[ch] * share;
        }
      }
    });
  });
}

void roipoint_pool3d(int batch_size, int pts_num, int boxes_num, int feature_in_len,
                     int sampled_pts_num, Tensor xyz, Tensor boxes3d, Tensor pts_feature,
                     Tensor pooled_features, Tensor pooled_empty_flag) {
  check_points_and_boxes(batch_size, boxes_num, pts_num, boxes3d, xyz);
  check_shape("pts_feature", pts_feature, {batch_size, pts_num, feature_in_len});
  check_shape("pooled_features", pooled_features,
              {batch_size, boxes_num, sampled_pts_num, 3 + feature_in_len});
  check_int32_shape("pooled_empty_flag", pooled_empty_flag, {batch_size, boxes_num});
  Output<int> flags(pooled_empty_flag);
  int* empty = flags.data();
  with_compute_type(pooled_features, [&](auto number, const auto& convert) {
    using T = decltype(number);
    const auto boxes = boxes_of<T>(boxes3d);
    const auto points = planes<T>(xyz), places = convert(xyz), features = convert(pts_feature);
    const T *point = points.template const_data_ptr<T>(),
            *place = places.template const_data_ptr<T>(),
            *feature = features.template const_data_ptr<T>();
    const int64_t stride = points.size(2), width = 3 + feature_in_len;
    Output<T> pooled(pooled_features);
    T* written = pooled.data();
    at::parallel_for(
        0, int64_t{batch_size} * boxes_num, grain(pts_num), [&](int64_t begin, int64_t end) {
          std::vector<int> sampled;
          run_widest<Inlined>([&]() MXD_INLINED {
            for (int64_t i = begin; i < end; i++) {
              const int64_t batch = i / boxes_num;
              sampled.clear();
              for_each_inside(boxes[i], point + batch * 3 * stride, stride, [&](int k) MXD_INLINED {
                if (static_cast<int>(sampled.size()) < sampled_pts_num) sampled.push_back(k);
                return static_cast<int>(sampled.size()) < sampled_pts_num;
              });
              if (sampled.empty()) empty[i] = 1;
              // Where there are fewer points they come again, in turns.
              for (int64_t k = 0; k < sampled_pts_num && !sampled.empty(); k++) {
                const int64_t row = batch * pts_num + sampled[k % sampled.size()];
                T* out = written + (i * sampled_pts_num + k) * width;
                std::copy_n(place + 3 * row, 3, out);
                std::copy_n(feature + row * feature_in_len, feature_in_len, out + 3);
              }
            }
          });
        });
  });
}

}  // namespace mxd::mmcv_registry::cpu
