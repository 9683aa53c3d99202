// Rotated boxes on the CPU: one box beside as many others as a vector holds, in float64.
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "../rotated_iou.h"
#include "compute_type.h"
#include "parallel.h"
#include "simd.h"

namespace mxd::rotated_iou {
namespace {

// Of a box, or of as many as a vector has lanes: half sides, direction and area.
template <typename Value>
struct Box {
  Value x, y, width, height, cosine, sine, area;
};

// Boxes as lists of each of their numbers, up to a multiple of any vector. Boxes that overlap
// nothing, and those behind the last one, have no area.
class Boxes {
 public:
  explicit Boxes(const at::Tensor& boxes)
      : pitch_(cpu::whole_vectors<double>(boxes.size(0))), values_(kNumbers * pitch_) {
    const at::Tensor rows = boxes.to(at::kDouble).contiguous();
    const double* row = rows.const_data_ptr<double>();
    for (int64_t i = 0; i < rows.size(0); i++, row += 5) {
      const double width = std::max(row[2], 0.0), height = std::max(row[3], 0.0),
                   area = width * height;
      if (!(area >= kLeastArea) || !std::isfinite(row[0] + row[1] + row[4] + area)) continue;
      const double numbers[kNumbers] = {row[0],           row[1],           width / 2, height / 2,
                                        std::cos(row[4]), std::sin(row[4]), area};
      for (int64_t k = 0; k < kNumbers; k++) values_[k * pitch_ + i] = numbers[k];
    }
  }

  Box<double> at(int64_t i) const {
    const double* v = values_.data() + i;
    return {v[0],          v[pitch_],     v[2 * pitch_], v[3 * pitch_],
            v[4 * pitch_], v[5 * pitch_], v[6 * pitch_]};
  }
  template <int Bytes>
  MXD_INLINE Box<typename cpu::Simd<double, Bytes>::Vec> lanes_at(int64_t i) const {
    using Lanes = cpu::Simd<double, Bytes>;
    const double* v = values_.data() + i;
    return {Lanes::load(v),
            Lanes::load(v + pitch_),
            Lanes::load(v + 2 * pitch_),
            Lanes::load(v + 3 * pitch_),
            Lanes::load(v + 4 * pitch_),
            Lanes::load(v + 5 * pitch_),
            Lanes::load(v + 6 * pitch_)};
  }

 private:
  static constexpr int64_t kNumbers = 7;
  int64_t pitch_;
  std::vector<double> values_;
};

template <typename Vec>
MXD_INLINE Box<Vec> in_all_lanes(const Box<double>& box) {
  const Vec zero{};
  return {zero + box.x,      zero + box.y,    zero + box.width, zero + box.height,
          zero + box.cosine, zero + box.sine, zero + box.area};
}

template <typename Vec>
MXD_INLINE Vec least(const Vec& a, const Vec& b) {
  return a < b ? a : b;
}
template <typename Vec>
MXD_INLINE Vec most(const Vec& a, const Vec& b) {
  return a > b ? a : b;
}
template <typename Vec>
MXD_INLINE Vec clamp(const Vec& value, const Vec& limit) {
  return least(most(value, -limit), limit);
}
template <typename Vec>
MXD_INLINE Vec size_of(const Vec& value) {
  return most(value, -value);
}

// The integral along a side from (x0, y0) to (x1, y1).
template <typename Vec>
MXD_INLINE Vec along_side(const Vec& x0, const Vec& y0, const Vec& x1, const Vec& y1, const Vec& a,
                          const Vec& b, const Vec& center) {
  const Vec one = Vec{} + 1.0, tiny = Vec{} + std::numeric_limits<double>::min();
  const Vec from = clamp(y0, b), to = clamp(y1, b), rise = most(size_of(y1 - y0), tiny);
  const Vec begin = x0 + (x1 - x0) * least(size_of(from - y0) / rise, one);
  const Vec end = x1 - (x1 - x0) * least(size_of(y1 - to) / rise, one);
  const Vec low = least(begin, end), high = most(begin, end);
  const Vec above = most(high, a) - most(low, a), below = least(high, -a) - least(low, -a);
  const Vec mean = (clamp(low, a) + clamp(high, a)) * 0.5;
  const Vec beyond = (above * (a - mean) - below * (a + mean)) / most(high - low, tiny);
  return (mean - center + beyond) * (to - from);
}

template <typename Vec>
MXD_INLINE Vec shared_area(const Box<Vec>& first, const Box<Vec>& second) {
  const Vec dx = second.x - first.x, dy = second.y - first.y;
  const Vec u = first.cosine * dx + first.sine * dy, v = first.cosine * dy - first.sine * dx;
  const Vec cosine = first.cosine * second.cosine + first.sine * second.sine;
  const Vec sine = first.cosine * second.sine - first.sine * second.cosine;
  const Vec px = second.width * cosine, py = second.width * sine;
  const Vec qx = -second.height * sine, qy = second.height * cosine;
  const Vec x[4] = {u - px - qx, u + px - qx, u + px + qx, u - px + qx};
  const Vec y[4] = {v - py - qy, v + py - qy, v + py + qy, v - py + qy};
  const Vec center = clamp(u, first.width);
  Vec area{};
  for (int i = 0; i < 4; i++)
    area +=
        along_side(x[i], y[i], x[(i + 1) % 4], y[(i + 1) % 4], first.width, first.height, center);
  return most(area, Vec{});
}

template <typename Vec>
MXD_INLINE Vec measure(const Box<Vec>& first, const Box<Vec>& second, int64_t mode) {
  const Vec shared = shared_area(first, second);
  if (mode == kArea) return shared;
  const Vec whole = mode == kIof ? first.area : first.area + second.area - shared;
  return shared / most(whole, Vec{} + kLeastArea);
}

struct AllPairs {
  template <typename W>
  static MXD_INLINE void run(const Boxes& first, const Boxes& second, int64_t rows, int64_t columns,
                             int64_t mode, double* out) {
    using Lanes = cpu::Simd<double, W::kBytes>;
    for (int64_t row = 0; row < rows; row++, out += columns) {
      const auto box = in_all_lanes<typename Lanes::Vec>(first.at(row));
      for (int64_t at = 0; at < columns; at += Lanes::kLanes) {
        const auto value = measure(box, second.lanes_at<W::kBytes>(at), mode);
        if (at + Lanes::kLanes <= columns)
          Lanes::store(out + at, value);
        else
          std::memcpy(out + at, &value, (columns - at) * sizeof(double));
      }
    }
  }
};

struct Aligned {
  template <typename W>
  static MXD_INLINE void run(const Boxes& first, const Boxes& second, int64_t count, int64_t mode,
                             double* out) {
    using Lanes = cpu::Simd<double, W::kBytes>;
    for (int64_t at = 0; at < count; at += Lanes::kLanes) {
      const auto value =
          measure(first.lanes_at<W::kBytes>(at), second.lanes_at<W::kBytes>(at), mode);
      std::memcpy(out + at, &value, std::min<int64_t>(Lanes::kLanes, count - at) * sizeof(double));
    }
  }
};

constexpr int64_t kPairsOfThread = 1024;

at::Tensor iou_cpu(const at::Tensor& boxes1, const at::Tensor& boxes2, int64_t mode, bool aligned) {
  check_iou(boxes1, boxes2, mode, aligned);
  const int64_t rows = boxes1.size(0), columns = boxes2.size(0);
  const auto doubles = boxes1.options().dtype(at::kDouble);
  const auto out = aligned ? at::empty({rows}, doubles) : at::empty({rows, columns}, doubles);
  double* values = out.mutable_data_ptr<double>();
  if (out.numel() == 0) return out.to(boxes1.scalar_type());
  const Boxes second(aligned ? boxes2.slice(0, 0, 0) : boxes2);
  const int64_t grain = std::max<int64_t>(kPairsOfThread / (aligned ? 1 : columns), 1);
  at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    const Boxes first(boxes1.slice(0, begin, end));
    if (aligned)
      cpu::run_widest<Aligned>(first, Boxes(boxes2.slice(0, begin, end)), end - begin, mode,
                               values + begin);
    else
      cpu::run_widest<AllPairs>(first, second, end - begin, columns, mode,
                                values + begin * columns);
  });
  return out.to(boxes1.scalar_type());
}

// The greedy choice among boxes in order, without those that are gone: suppress(i, gone) marks
// those behind i that i suppresses. Calls kept(i) for each that stays.
template <typename Suppress, typename Kept>
void choose(std::vector<uint8_t>& gone, int64_t boxes, const Suppress& suppress, const Kept& kept) {
  gone.resize(cpu::whole_vectors<double>(boxes));
  for (int64_t i = 0; i < boxes; i++) {
    if (gone[i]) continue;
    kept(i);
    suppress(i, gone.data());
  }
}

template <typename Suppress>
std::tuple<at::Tensor, at::Tensor> keep_best(const at::Tensor& order, const Suppress& suppress) {
  const at::Tensor keep = at::empty_like(order), count = at::zeros({1}, order.options());
  int64_t *to = keep.mutable_data_ptr<int64_t>(), *found = count.mutable_data_ptr<int64_t>();
  std::vector<uint8_t> gone;
  choose(gone, order.size(0), suppress,
         [&](int64_t i) { to[(*found)++] = order.const_data_ptr<int64_t>()[i]; });
  return {keep, count};
}

at::Tensor best_first(const at::Tensor& scores) {
  return std::get<1>(at::sort(scores, /*stable=*/true, /*dim=*/0, /*descending=*/true));
}

struct SuppressByIou {
  template <typename W>
  static MXD_INLINE void run(const Boxes& boxes, int64_t i, int64_t count, double threshold,
                             bool inclusive, const int64_t* labels, uint8_t* gone) {
    using Lanes = cpu::Simd<double, W::kBytes>;
    const auto box = in_all_lanes<typename Lanes::Vec>(boxes.at(i));
    for (int64_t at = (i + 1) / Lanes::kLanes * Lanes::kLanes; at < count; at += Lanes::kLanes) {
      bool alive = false;
      for (int lane = 0; lane < Lanes::kLanes; lane++) alive |= !gone[at + lane];
      if (!alive) continue;
      const auto iou = measure(box, boxes.lanes_at<W::kBytes>(at), kIou);
      for (int lane = 0; lane < Lanes::kLanes; lane++) {
        const bool beyond = inclusive ? iou[lane] >= threshold : iou[lane] > threshold;
        const bool same =
            labels == nullptr || (at + lane < count && labels[at + lane] == labels[i]);
        gone[at + lane] |= beyond && same;
      }
    }
  }
};

std::tuple<at::Tensor, at::Tensor> nms_cpu(const at::Tensor& boxes,
                                           const c10::optional<at::Tensor>& scores,
                                           const c10::optional<at::Tensor>& labels,
                                           double threshold, bool inclusive) {
  check_nms(boxes, scores, labels, threshold, inclusive);
  const auto order =
      scores ? best_first(*scores) : at::arange(boxes.size(0), boxes.options().dtype(at::kLong));
  const Boxes sorted(boxes.index_select(0, order));
  at::Tensor labels_of;
  if (labels) labels_of = labels->to(at::kLong).index_select(0, order);
  const int64_t* label = labels ? labels_of.const_data_ptr<int64_t>() : nullptr;
  return keep_best(order, [&](int64_t i, uint8_t* gone) {
    cpu::run_widest<SuppressByIou>(sorted, i, boxes.size(0), threshold, inclusive, label, gone);
  });
}

template <typename Number>
void suppress_near(const Number* center, int64_t i, int64_t count, double threshold,
                   uint8_t* gone) {
  for (int64_t j = i + 1; j < count; j++) {
    const Number dx = center[2 * i] - center[2 * j], dy = center[2 * i + 1] - center[2 * j + 1];
    gone[j] |= dx * dx + dy * dy <= static_cast<Number>(threshold);
  }
}

// In the dtype of the centers, or in float32 if that is shorter.
std::tuple<at::Tensor, at::Tensor> circle_nms_cpu(const at::Tensor& centers,
                                                  const at::Tensor& scores, double threshold) {
  check_circle_nms(centers, scores, threshold);
  const auto order = best_first(scores);
  return cpu::with_compute_type(centers, [&](auto number, const auto& convert) {
    using Number = decltype(number);
    const at::Tensor sorted = convert(centers.index_select(0, order));
    const auto* center = sorted.template const_data_ptr<Number>();
    return keep_best(order, [&](int64_t i, uint8_t* gone) {
      suppress_near(center, i, order.size(0), threshold, gone);
    });
  });
}

std::tuple<at::Tensor, at::Tensor> grouped_nms_cpu(const at::Tensor& boxes, const at::Tensor& valid,
                                                   double threshold, bool inclusive) {
  check_grouped_nms(boxes, valid, threshold, inclusive);
  const int64_t groups = boxes.size(0), count = boxes.size(1);
  const auto ints = boxes.options().dtype(at::kLong);
  const at::Tensor keep = at::zeros({groups, count}, ints), total = at::zeros({groups}, ints);
  const at::Tensor counts = valid.contiguous();
  cpu::with_compute_type(boxes, [&](auto number, const auto& convert) {
    const at::Tensor rows = convert(boxes);
    at::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
      for (int64_t group = begin; group < end; group++) {
        const bool* here = counts.const_data_ptr<bool>() + group * count;
        int64_t* to = keep.mutable_data_ptr<int64_t>() + group * count;
        int64_t& found = total.mutable_data_ptr<int64_t>()[group];
        std::vector<uint8_t> gone(count);
        for (int64_t i = 0; i < count; i++) gone[i] = !here[i];
        const auto kept = [&](int64_t i) { to[found++] = i; };
        if (rows.size(2) == 2) {
          const auto* center = rows.template const_data_ptr<decltype(number)>() + 2 * group * count;
          choose(
              gone, count,
              [&](int64_t i, uint8_t* gone) { suppress_near(center, i, count, threshold, gone); },
              kept);
        } else {
          const Boxes sorted(rows[group]);
          choose(
              gone, count,
              [&](int64_t i, uint8_t* gone) {
                cpu::run_widest<SuppressByIou>(sorted, i, count, threshold, inclusive, nullptr,
                                               gone);
              },
              kept);
        }
      }
    });
  });
  return {keep, total};
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, CPU, m) {
  m.impl("rotated_iou", TORCH_FN(iou_cpu));
  m.impl("rotated_nms", TORCH_FN(nms_cpu));
  m.impl("circle_nms", TORCH_FN(circle_nms_cpu));
  m.impl("grouped_nms", TORCH_FN(grouped_nms_cpu));
}

}  // namespace mxd::rotated_iou
