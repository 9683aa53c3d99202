// Points to cells of a grid: (point - low) / size in fp32, rounded down. All of it is elementwise;
// every block works on a range of points of its own, in chunks.
#include "common/buffers.h"
#include "common/chunks.h"
#include "common/events.h"
#include "common/integer_lanes.h"
#include "common/run.h"
#include "voxelize/cells.h"
#include "voxelize/places.h"
#include "voxelize_tiling.h"

namespace mxd::kernels {
namespace {

template <typename T>
class VoxelizeCells {
  using Cells = PointCells<T, VoxelizeCellsTiling>;
  static constexpr int32_t kChunk = Cells::kChunk;
  static_assert((Cells::kWords + kChunk * (5 * kVoxelizeDims + 4)) * kWord <= kUbBytes - 8192);

 public:
  __aicore__ inline VoxelizeCells(TPipe& pipe, const VoxelizeCellsTiling& tiling, GM_ADDR points,
                                  GM_ADDR coors, GM_ADDR keys)
      : tiling_(tiling),
        wants_coors_(coors != nullptr),
        wants_keys_(keys != nullptr),
        lanes_(pipe, kChunk * kVoxelizeDims),
        out_(TakeNumbers(pipe, kChunk * tiling.ndim, kChunk * tiling.ndim)),
        cells_(tiling, Take<int32_t>(pipe, Cells::kWords), out_, points),
        mask_(Take<uint8_t>(pipe, kChunk / 8)) {
    Bind(coors_, coors, keys_, keys);
    Take(pipe, kChunk, inside_, condition_, key_);
    Take(pipe, kChunk * tiling.ndim, cell_, interleave_);
  }

  __aicore__ inline void Process() {
    const int32_t all = kChunk * tiling_.ndim;
    // Word j of the result is word j / ndim of column j % ndim.
    lanes_.Divide(interleave_, out_, tiling_.ndim, tiling_.inverse_ndim, all);
    Muls(interleave_, interleave_, kWord, all);
    PipeBarrier<PIPE_V>();
    lanes_.MulAdd(interleave_, out_, kChunk * kWord, all);
    ForEachChunk(tiling_.points, cells_.chunk(),
                 [&](int32_t begin, int32_t count) __aicore__ { ProcessChunk(begin, count); });
  }

 private:
  __aicore__ inline void ProcessChunk(int32_t begin, int32_t count) {
    cells_.Load(begin, count);
    for (int32_t d = 0; d < tiling_.ndim; d++) cells_.Find(d, column(d), mask_, count);
    // -1 outside.
    Duplicate(inside_, 0.0f, count);
    PipeBarrier<PIPE_V>();
    Select(inside_, mask_, inside_, -1.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, count);
    PipeBarrier<PIPE_V>();
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

  // Dimension d is column ndim - 1 - d of the result.
  __aicore__ inline LocalTensor<int32_t> column(int32_t d) {
    return cell_[(tiling_.ndim - 1 - d) * kChunk];
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
  const bool wants_coors_, wants_keys_;
  IntegerLanes lanes_;
  LocalTensor<int32_t> out_;
  const Cells cells_;
  GlobalTensor<int32_t> coors_, keys_;
  LocalTensor<float> inside_;
  LocalTensor<int32_t> condition_, key_, cell_, interleave_;
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
