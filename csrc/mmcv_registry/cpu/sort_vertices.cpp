// The corners of what two rotated boxes have in common, in the order around their middle, on the
// CPU: for the overlap that mmcv differentiates.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>

#include "../../ops/cpu/compute_type.h"
#include "check_shape.h"
#include "cpu_ops.h"
#include "output.h"

namespace mxd::mmcv_registry::cpu {
namespace {

using mxd::cpu::with_compute_type;

constexpr int64_t kCorners = 8;  // of the two boxes; behind them are points where sides meet
constexpr int64_t kNumbers = kCorners + 1;  // the first one again at the end
constexpr double kEpsilon = 1e-8;

template <typename T>
struct Vertex {
  T x, y;
};

/// Whether `a` is before `b`, anticlockwise from the positive x axis: mmcv's comparison to the
/// letter, as it is no order of points that are nearly the same.
template <typename T>
bool is_before(Vertex<T> a, Vertex<T> b) {
  if (std::abs(a.x - b.x) < kEpsilon && std::abs(b.y - a.y) < kEpsilon) return false;
  if (a.y > 0 && b.y < 0) return true;
  if (a.y < 0 && b.y > 0) return false;
  const auto cosine = [](Vertex<T> v) {  // squared, with its sign
    const T square = static_cast<T>(v.x * v.x + v.y * v.y + kEpsilon);
    return std::abs(v.x) * v.x / square;
  };
  const T difference = cosine(a) - cosine(b);
  if (a.y > 0 && b.y > 0) return difference > kEpsilon;
  if (a.y < 0 && b.y < 0) return difference < kEpsilon;
  return false;
}

/// The valid vertex that is next behind `before`, or the very first where that is null; 0 where
/// there is none.
template <typename T>
int next_vertex(const Vertex<T>* vertices, const bool* valid, int64_t count,
                const Vertex<T>* before) {
  Vertex<T> least = {1, static_cast<T>(-kEpsilon)};  // behind all others
  int taken = 0;
  for (int64_t k = 0; k < count; k++) {
    if (!valid[k] || !is_before(vertices[k], least)) continue;
    if (before && !is_before(*before, vertices[k])) continue;
    least = vertices[k];
    taken = static_cast<int>(k);
  }
  return taken;
}

/// The vertices of one polygon in order, the first one once more, and a point that counts nothing
/// in the other places.
template <typename T>
void sort_polygon(const Vertex<T>* vertices, const bool* valid, int64_t count, int64_t valid_count,
                  int* order) {
  // Boxes that are nearly the same may have more vertices than a polygon of them: mmcv would write
  // them too.
  const int64_t sides = std::min(valid_count, kCorners);
  const bool* no_point = std::find(valid + kCorners, valid + count, false);
  std::fill_n(order, kNumbers, static_cast<int>(no_point - valid));
  if (sides < 3) return;
  for (int64_t j = 0; j < sides; j++)
    order[j] = next_vertex(vertices, valid, count, j ? vertices + order[j - 1] : nullptr);
  order[sides] = order[0];
  if (sides < kCorners) return;
  // Of two boxes that are the same each corner was found twice.
  int64_t twice = 0;
  for (int64_t j = 0; j < 4; j++) twice += std::count(order + 4, order + kCorners, order[j]);
  if (twice != 4) return;
  order[4] = order[0];
  std::fill(order + 5, order + kNumbers, static_cast<int>(no_point - valid));
}

}  // namespace

Tensor diff_iou_rotated_sort_vertices(Tensor vertices, Tensor mask, Tensor num_valid) {
  check_float("vertices", vertices);
  TORCH_CHECK_VALUE(vertices.dim() == 4 && vertices.size(2) > kCorners && vertices.size(3) == 2,
                    "vertices must have shape [B, N, M, 2] with more than 8 vertices M, was ",
                    vertices.sizes());
  const int64_t batches = vertices.size(0), polygons = vertices.size(1), count = vertices.size(2);
  TORCH_CHECK_TYPE(mask.scalar_type() == at::kBool, "mask must be bool, was ", mask.scalar_type());
  check_shape("mask", mask, {batches, polygons, count});
  check_int32_shape("num_valid", num_valid, {batches, polygons});
  const auto order = at::empty({batches, polygons, kNumbers}, vertices.options().dtype(at::kInt));
  const auto masks = mask.contiguous(), counts = num_valid.contiguous();
  const bool* valid = masks.const_data_ptr<bool>();
  const int* valid_count = counts.const_data_ptr<int>();
  int* out = order.mutable_data_ptr<int>();
  with_compute_type(vertices, [&](auto number, const auto& convert) {
    using T = decltype(number);
    const auto points = convert(vertices);
    const auto* point = reinterpret_cast<const Vertex<T>*>(points.template const_data_ptr<T>());
    at::parallel_for(0, batches * polygons, 64, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++)
        sort_polygon(point + i * count, valid + i * count, count, valid_count[i],
                     out + i * kNumbers);
    });
  });
  return order;
}

}  // namespace mxd::mmcv_registry::cpu
