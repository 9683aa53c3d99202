// Points to the cells of a grid: (point - low) / size in fp32, rounded down, a dimension at a time.
#pragma once

#include <type_traits>

#include "../common/buffers.h"
#include "../common/events.h"
#include "kernel_operator.h"

namespace mxd::kernels {

using namespace AscendC;

// A chunk of points in UB. `Tiling` has the points' channels and the grid's ndim, low, size and
// cells.
template <typename T, typename Tiling>
class PointCells {
  static constexpr int32_t kSize = static_cast<int32_t>(sizeof(T));
  static constexpr int32_t kElements = kBlockBytes / kSize;
  static constexpr int32_t kRowBytes = 64;  // rows up to this are loaded whole
  static constexpr int32_t kRowWords = 8192;
  using Bits = std::conditional_t<sizeof(T) == kWord, float, uint16_t>;

 public:
  static constexpr int32_t kChunk = 1024;
  static constexpr int32_t kWords = kRowWords + 4 * kChunk + 2 * kChunk / 32;

  // `area`: kWords; `numbers`: 0, 1 ... kChunk - 1
  __aicore__ inline PointCells(const Tiling& tiling, const LocalTensor<int32_t>& area,
                               const LocalTensor<int32_t>& numbers, GM_ADDR points)
      : tiling_(tiling),
        whole_rows_(tiling.channels * kSize <= kRowBytes),
        chunk_(whole_rows_ && tiling.channels * kSize > kBlockBytes ? kChunk / 2 : kChunk),
        point_(area.template ReinterpretCast<T>()),
        raw_(area[kRowWords].template ReinterpretCast<T>()),
        at_(area[kRowWords + kChunk].template ReinterpretCast<float>()),
        size_(area[kRowWords + 2 * kChunk].template ReinterpretCast<float>()),
        row_(area[kRowWords + 3 * kChunk]),
        not_below_(area[kRowWords + 4 * kChunk].template ReinterpretCast<uint8_t>()),
        below_(not_below_[kChunk / 8]) {
    points_.SetGlobalBuffer((__gm__ T*)points);
    Muls(row_, numbers, (whole_rows_ ? tiling_.channels : kElements) * kSize, kChunk);
    Duplicate(at_, 0.0f, kChunk);  // comparisons read whole repeats
    PipeBarrier<PIPE_V>();
  }

  // Points at once, at most: a multiple of 256.
  __aicore__ inline int32_t chunk() const { return chunk_; }

  __aicore__ inline void Load(int32_t begin, int32_t count) const {
    SetWait<HardEvent::V_MTE2>();
    const GlobalTensor<T> from = points_[static_cast<int64_t>(begin) * tiling_.channels];
    if (whole_rows_)
      DataCopyPad(point_, from,
                  {1, static_cast<uint32_t>(count * tiling_.channels * kSize), 0, 0, 0},
                  {false, 0, 0, T{}});
    else
      DataCopyPad(point_, from,
                  {static_cast<uint16_t>(count), static_cast<uint32_t>(tiling_.ndim * kSize),
                   static_cast<uint32_t>((tiling_.channels - tiling_.ndim) * kSize), 0, 0},
                  {false, 0, 0, T{}});
    SetWait<HardEvent::MTE2_V>();
  }

  // cell: the coordinates in dimension d, the dimensions being asked for in order. inside: a bit
  // for each point that is inside in all until now; cell is 0 where not. NaN is outside, as its
  // comparisons are all false.
  __aicore__ inline void Find(int32_t d, const LocalTensor<int32_t>& cell,
                              const LocalTensor<uint8_t>& inside, int32_t count) const {
    const int32_t whole = RoundUp(count, kLanes);
    const auto from = point_.template ReinterpretCast<Bits>();
    const uint32_t column_bytes = d * kSize;
    if constexpr (sizeof(T) == kWord) {
      Gather(at_, from, row_.template ReinterpretCast<uint32_t>(), column_bytes, count);
    } else {
      Gather(raw_.template ReinterpretCast<Bits>(), from, row_.template ReinterpretCast<uint32_t>(),
             column_bytes, count);
      PipeBarrier<PIPE_V>();
      Cast(at_, raw_, RoundMode::CAST_NONE, count);
    }
    Duplicate(size_, tiling_.size[d], count);
    PipeBarrier<PIPE_V>();
    Adds(at_, at_, -tiling_.low[d], count);
    PipeBarrier<PIPE_V>();
    Div(at_, at_, size_, count);
    PipeBarrier<PIPE_V>();
    CompareScalar(not_below_, at_, 0.0f, CMPMODE::GE, whole);
    CompareScalar(below_, at_, tiling_.cells[d], CMPMODE::LT, whole);
    PipeBarrier<PIPE_V>();
    Join(not_below_, not_below_, below_, whole);
    Join(inside, d == 0 ? not_below_ : inside, not_below_, whole);
    Select(at_, inside, at_, 0.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, count);
    PipeBarrier<PIPE_V>();
    Cast(cell, at_, RoundMode::CAST_FLOOR, count);
    PipeBarrier<PIPE_V>();
  }

 private:
  __aicore__ inline void Join(const LocalTensor<uint8_t>& to, const LocalTensor<uint8_t>& a,
                              const LocalTensor<uint8_t>& b, int32_t lanes) const {
    And(to.template ReinterpretCast<uint16_t>(), a.template ReinterpretCast<uint16_t>(),
        b.template ReinterpretCast<uint16_t>(), lanes / 16);
    PipeBarrier<PIPE_V>();
  }

  const Tiling tiling_;
  const bool whole_rows_;
  const int32_t chunk_;
  GlobalTensor<T> points_;
  LocalTensor<T> point_, raw_;
  LocalTensor<float> at_, size_;
  LocalTensor<int32_t> row_;
  LocalTensor<uint8_t> not_below_, below_;
};

}  // namespace mxd::kernels
