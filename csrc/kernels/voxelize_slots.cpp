// What is known of each voxel, from the points sorted by voxel. Both its points and its first one
// lie near those of the voxel before: a window of each table in UB serves many voxels.
#include "common/buffers.h"
#include "common/chunks.h"
#include "common/events.h"
#include "common/integer_lanes.h"
#include "common/run.h"
#include "common/word_table.h"
#include "voxelize_tiling.h"

namespace mxd::kernels {
namespace {

class VoxelizeSlots {
  using Table = WordTable<11264>;
  static constexpr int32_t kLanesAtOnce = kVoxelizeLanes;
  static_assert((Table::kUbWords + kBlockWords + 8 * kLanesAtOnce + 4 * kVoxelizeVoxels) * kWord <=
                kUbBytes);

 public:
  __aicore__ inline VoxelizeSlots(TPipe& pipe, const VoxelizeSlotsTiling& tiling, GM_ADDR leaders,
                                  GM_ADDR begins, GM_ADDR rows, GM_ADDR cells, GM_ADDR coors,
                                  GM_ADDR num_points, GM_ADDR slots)
      : tiling_(tiling), lanes_(pipe, kLanesAtOnce), words_(pipe) {
    Bind(leaders_, leaders, begins_, begins, rows_, rows, cells_, cells, coors_, coors, num_points_,
         num_points, slots_, slots);
    begin_ = Take<int32_t>(pipe, kVoxelizeVoxels);
    end_ = Take<int32_t>(pipe, kVoxelizeVoxels + kBlockWords);
    Take(pipe, kVoxelizeVoxels, size_, leader_);
    Take(pipe, kLanesAtOnce, voxel_, number_, place_, scratch_, condition_, out_);
  }

  __aicore__ inline void Process() {
    ForEachChunk(tiling_.voxels, tiling_.batch,
                 [&](int32_t begin, int32_t count) __aicore__ { ProcessVoxels(begin, count); });
  }

 private:
  __aicore__ inline void ProcessVoxels(int32_t begin, int32_t count) {
    Load(begin, count);
    DataCopyPad(num_points_[begin], size_, Words(count));

    Divide(tiling_.ndim, tiling_.inverse_ndim, count);
    int32_t lanes = count * tiling_.ndim;
    Gather(place_, leader_, voxel_.ReinterpretCast<uint32_t>(), 0, lanes);
    PipeBarrier<PIPE_V>();
    Muls(place_, place_, tiling_.ndim, lanes);
    PipeBarrier<PIPE_V>();
    Add(place_, place_, number_, lanes);
    PipeBarrier<PIPE_V>();
    SetWait<HardEvent::V_S>();
    const int64_t first = static_cast<int64_t>(leader_.GetValue(0)) * tiling_.ndim;
    const int64_t last = static_cast<int64_t>(leader_.GetValue(count - 1) + 1) * tiling_.ndim;
    TakePlaces(cells_, static_cast<int32_t>(first), static_cast<int32_t>(last), lanes);
    Write(coors_[static_cast<int64_t>(begin) * tiling_.ndim], lanes);

    const int32_t from = begin_.GetValue(0), to = end_.GetValue(count - 1);
    Divide(tiling_.width, tiling_.inverse_width, count);
    for (int32_t slot = 0; slot < tiling_.max_points; slot += tiling_.width) {
      // Several voxels at once only where that is all slots.
      lanes = count * MinOf(tiling_.width, tiling_.max_points - slot);
      Gather(place_, begin_, voxel_.ReinterpretCast<uint32_t>(), 0, lanes);
      Gather(condition_, size_, voxel_.ReinterpretCast<uint32_t>(), 0, lanes);
      Adds(scratch_, number_, slot, lanes);
      PipeBarrier<PIPE_V>();
      Sub(condition_, condition_, scratch_, lanes);
      Add(place_, place_, scratch_, lanes);
      PipeBarrier<PIPE_V>();
      Adds(condition_, condition_, -1, lanes);  // negative in empty slots
      PipeBarrier<PIPE_V>();
      TakePlaces(rows_, from, to, lanes);
      lanes_.MarkUnless(condition_, out_, false, lanes);
      Write(slots_[static_cast<int64_t>(begin) * tiling_.max_points + slot], lanes);
    }
  }

  // The voxels' first places, sizes and first points.
  __aicore__ inline void Load(int32_t begin, int32_t count) {
    const bool last = begin + count == tiling_.groups;  // it ends where points are outside
    SetWait<HardEvent::V_MTE2>();
    SetWait<HardEvent::MTE3_V>();
    SetWait<HardEvent::S_MTE2>();
    DataCopyPad(begin_, begins_[begin], Words(count), {false, 0, 0, 0});
    DataCopyPad(leader_, leaders_[begin], Words(count), {false, 0, 0, 0});
    if (!last || count > 1)
      DataCopyPad(end_, begins_[begin + 1], Words(last ? count - 1 : count), {false, 0, 0, 0});
    SetWait<HardEvent::MTE2_S>();
    if (last) end_.SetValue(count - 1, tiling_.inside);
    SetWait<HardEvent::S_V>();
    SetWait<HardEvent::MTE2_V>();
    Sub(size_, end_, begin_, count);
    PipeBarrier<PIPE_V>();
    Mins(size_, size_, tiling_.max_points, count);
    SetWait<HardEvent::V_MTE3>();
  }

  // Lane i is number i % width of voxel i / width, which is an offset in bytes.
  __aicore__ inline void Divide(int32_t width, float inverse, int32_t count) {
    SetWait<HardEvent::V_S>();
    CreateVecIndex(number_, 0, count * width);
    PipeBarrier<PIPE_V>();
    lanes_.Divide(voxel_, number_, width, inverse, count * width);
    Muls(voxel_, voxel_, kWord, count * width);
    PipeBarrier<PIPE_V>();
  }

  // out_: the words of a table at place_, of those that lie in [first, end).
  __aicore__ inline void TakePlaces(const GlobalTensor<int32_t>& table, int32_t first, int32_t end,
                                    int32_t count) {
    SetWait<HardEvent::MTE3_V>();
    words_.Look(table, first, end, place_, out_, scratch_, count);
  }

  __aicore__ inline void Write(const GlobalTensor<int32_t>& to, int32_t count) {
    SetWait<HardEvent::V_MTE3>();
    DataCopyPad(to, out_, Words(count));
  }

  const VoxelizeSlotsTiling tiling_;
  IntegerLanes lanes_;
  Table words_;
  GlobalTensor<int32_t> leaders_, begins_, rows_, cells_, coors_, num_points_, slots_;
  LocalTensor<int32_t> begin_, end_, size_, leader_;
  LocalTensor<int32_t> voxel_, number_, place_, scratch_, condition_, out_;
};

}  // namespace
}  // namespace mxd::kernels

// Of the voxels with first points leaders int32 [groups], that begin at places begins int32
// [groups] of the sorted points rows int32 [inside]: coors int32 [voxels, ndim] out of cells int32
// [points, ndim], num_points int32 [voxels] and slots int32 [voxels, max_points].
extern "C" __global__ __aicore__ void voxelize_slots(GM_ADDR leaders, GM_ADDR begins, GM_ADDR rows,
                                                     GM_ADDR cells, GM_ADDR coors,
                                                     GM_ADDR num_points, GM_ADDR slots,
                                                     VoxelizeSlotsTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::VoxelizeSlots>(tiling, leaders, begins, rows, cells, coors,
                                                       num_points, slots);
}
