// Points to cells of a grid: (point - low) / size in fp32, rounded down. All of it is elementwise;
// every block works on a range of points of its own, in chunks.
#include "common/buffers.h"
#include "common/chunks.h"
#include "common/events.h"
#include "common/integer_lanes.h"
#include "common/run.h"
#include "voxelize_tiling.h"

namespace mxd::kernels {
namespace {

template <typename T>
class VoxelizeCells {
  static constexpr int32_t kChunk = 1024;
  static constexpr int32_t kElements = kBlockBytes / static_cast<int32_t>(sizeof(T));
  static constexpr int32_t kRowBytes = 64;  // rows up to this are loaded whole
  using Bits = std::conditional_t<sizeof(T) == kWord, float, uint16_t>;
  static_assert(kChunk * (kRowBytes + (4 * kVoxelizeDims + 12) * kWord) <= kUbBytes);

 public:
  __aicore__ inline VoxelizeCells(TPipe& pipe, const VoxelizeCellsTiling& tiling, GM_ADDR points,
                                  GM_ADDR coors, GM_ADDR keys)
      : tiling_(tiling),
        whole_rows_(tiling.channels * static_cast<int32_t>(sizeof(T)) <= kRowBytes),
        lanes_(pipe, kChunk * kVoxelizeDims) {
    Bind(points_, points, coors_, coors, keys_, keys);
    wants_coors_ = coors != nullptr;
    wants_keys_ = keys != nullptr;
    point_ = Take<T>(pipe, kChunk * kRowBytes / static_cast<int32_t>(sizeof(T)));
    Take(pipe, kChunk, raw_, at_, size_, inside_, condition_, key_);
    mask_ = Take<uint8_t>(pipe, kChunk / 8);
    row_ = Take<int32_t>(pipe, kChunk);
    Take(pipe, kChunk * tiling.ndim, cell_, interleave_, out_);
  }

  __aicore__ inline void Process() {
    const int32_t all = kChunk * tiling_.ndim;
    CreateVecIndex(out_, 0, all);
    PipeBarrier<PIPE_V>();
    const int32_t pitch =
        (whole_rows_ ? tiling_.channels : kElements) * static_cast<int32_t>(sizeof(T));
    Muls(row_, out_, pitch, kChunk);
    // Word j of the result is word j / ndim of column j % ndim.
    lanes_.Divide(interleave_, out_, tiling_.ndim, tiling_.inverse_ndim, all);
    Muls(interleave_, interleave_, kWord, all);
    PipeBarrier<PIPE_V>();
    lanes_.MulAdd(interleave_, out_, kChunk * kWord, all);
    Duplicate(at_, 0.0f, kChunk);  // comparisons read whole repeats
    PipeBarrier<PIPE_V>();
    ForEachChunk(tiling_.points, kChunk,
                 [&](int32_t begin, int32_t count) __aicore__ { ProcessChunk(begin, count); });
  }

 private:
  __aicore__ inline void ProcessChunk(int32_t begin, int32_t count) {
    Load(begin, count);
    Duplicate(inside_, 0.0f, count);
    PipeBarrier<PIPE_V>();
    for (int32_t d = 0; d < tiling_.ndim; d++) FindCells(d, count);
    if (wants_keys_) WriteKeys(begin, count);
    if (!wants_coors_) return;
    for (int32_t d = 0; d < tiling_.ndim; d++) {
      Adds(condition_, inside_.ReinterpretCast<int32_t>(), 0, count);
      PipeBarrier<PIPE_V>();
      lanes_.MarkUnless(condition_, column(d), false, count);
    }
    SetWait<HardEvent::MTE3_V>();
    Gather(out_, cell_, interleave_.ReinterpretCast<uint32_t>(), 0, count * tiling_.ndim);
    SetWait<HardEvent::V_MTE3>();
    DataCopyPad(coors_[static_cast<int64_t>(begin) * tiling_.ndim], out_,
                Words(count * tiling_.ndim));
  }

  __aicore__ inline void Load(int32_t begin, int32_t count) {
    SetWait<HardEvent::V_MTE2>();
    const auto size = static_cast<int32_t>(sizeof(T));
    const GlobalTensor<T> from = points_[static_cast<int64_t>(begin) * tiling_.channels];
    if (whole_rows_)
      DataCopyPad(point_, from,
                  {1, static_cast<uint32_t>(count * tiling_.channels * size), 0, 0, 0},
                  {false, 0, 0, T{}});
    else
      DataCopyPad(point_, from,
                  {static_cast<uint16_t>(count), static_cast<uint32_t>(tiling_.ndim * size),
                   static_cast<uint32_t>((tiling_.channels - tiling_.ndim) * size), 0, 0},
                  {false, 0, 0, T{}});
    SetWait<HardEvent::MTE2_V>();
  }

  // Dimension d is column ndim - 1 - d of the result.
  __aicore__ inline LocalTensor<int32_t> column(int32_t d) {
    return cell_[(tiling_.ndim - 1 - d) * kChunk];
  }

  // The coordinates of a dimension; inside_ is -1 where one is outside, else it stays. NaN is, as
  // its comparisons are all false.
  __aicore__ inline void FindCells(int32_t d, int32_t count) {
    const int32_t whole = RoundUp(count, kLanes);
    const auto raw = raw_.template ReinterpretCast<Bits>();
    const auto from = point_.template ReinterpretCast<Bits>();
    const uint32_t column_bytes = d * static_cast<int32_t>(sizeof(T));
    if constexpr (sizeof(T) == kWord) {
      Gather(at_, from, row_.ReinterpretCast<uint32_t>(), column_bytes, count);
    } else {
      Gather(raw, from, row_.ReinterpretCast<uint32_t>(), column_bytes, count);
      PipeBarrier<PIPE_V>();
      Cast(at_, raw_, RoundMode::CAST_NONE, count);
    }
    Duplicate(size_, tiling_.size[d], count);
    PipeBarrier<PIPE_V>();
    Adds(at_, at_, -tiling_.low[d], count);
    PipeBarrier<PIPE_V>();
    Div(at_, at_, size_, count);
    PipeBarrier<PIPE_V>();
    CompareScalar(mask_, at_, 0.0f, CMPMODE::GE, whole);
    PipeBarrier<PIPE_V>();
    Select(inside_, mask_, inside_, -1.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, count);
    Select(at_, mask_, at_, 0.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, count);
    PipeBarrier<PIPE_V>();
    CompareScalar(mask_, at_, tiling_.cells[d], CMPMODE::LT, whole);
    PipeBarrier<PIPE_V>();
    Select(inside_, mask_, inside_, -1.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, count);
    Select(at_, mask_, at_, 0.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, count);
    PipeBarrier<PIPE_V>();
    Cast(column(d), at_, RoundMode::CAST_FLOOR, count);
    PipeBarrier<PIPE_V>();
  }

  __aicore__ inline void WriteKeys(int32_t begin, int32_t count) {
    for (int32_t word = 0; word < tiling_.words; word++) {
      SetWait<HardEvent::MTE3_V>();
      Duplicate(key_, 0, count);
      PipeBarrier<PIPE_V>();
      for (int32_t d = 0; d < tiling_.ndim; d++) {
        if (tiling_.word[d] != word) continue;
        if (tiling_.step[d] == 0)
          Cast(key_.ReinterpretCast<float>(), column(d), RoundMode::CAST_NONE, count);
        else
          lanes_.MulAdd(key_, column(d), tiling_.step[d], count);
        PipeBarrier<PIPE_V>();
      }
      Adds(condition_, inside_.ReinterpretCast<int32_t>(), 0, count);
      PipeBarrier<PIPE_V>();
      lanes_.MarkUnless(condition_, key_, true, count);
      Mins(key_, key_, kVoxelizeOutside, count);
      SetWait<HardEvent::V_MTE3>();
      DataCopyPad(keys_[static_cast<int64_t>(word) * tiling_.pitch + begin], key_, Words(count));
    }
  }

  const VoxelizeCellsTiling tiling_;
  const bool whole_rows_;
  bool wants_coors_, wants_keys_;
  IntegerLanes lanes_;
  GlobalTensor<T> points_;
  GlobalTensor<int32_t> coors_, keys_;
  LocalTensor<T> point_, raw_;
  LocalTensor<float> at_, size_, inside_;
  LocalTensor<int32_t> condition_, key_, row_, cell_, interleave_, out_;
  LocalTensor<uint8_t> mask_;
};

}  // namespace
}  // namespace mxd::kernels

// points [points, channels] to coors int32 [points, ndim], -1 outside, and keys int32
// [words, pitch], kVoxelizeOutside outside. Either may be null.
extern "C" __global__ __aicore__ void voxelize_cells(GM_ADDR points, GM_ADDR coors, GM_ADDR keys,
                                                     VoxelizeCellsTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  using namespace mxd::kernels;
  RunFor<VoxelizeCells>(tiling, points, coors, keys);
}
