// The last step of hard voxelization: voxels in the order of their first points. A block takes
// ranges of first points that have its share of all points, as many at once as fit.
#include "common/integer_lanes.h"
#include "common/run.h"
#include "voxelize/pieces.h"
#include "voxelize_tiling.h"

namespace mxd::kernels {
namespace {

class VoxelizeCollect {
  static constexpr int32_t kMost = kVoxelizeBucket;
  static constexpr int32_t kPlanes = 3;                               // first point, cell, row
  static constexpr int32_t kVoxels = 1024;                            // at once
  static constexpr int32_t kSlots = 3072;                             // at once
  static constexpr int32_t kPieces = kBlockWords * kVoxelizeBuckets;  // words of their bounds
  static_assert(2 * kPieces <= kMost && kVoxelizeDims * kVoxels <= kMost);
  static_assert(((1 + kPlanes) * kMost + PlaceSort::Words(kMost) + 2 * kSlots + 3 * kVoxels +
                 kBlockWords + 2 * kVoxelizeRanges) *
                        kWord +
                    kMost / 8 <=
                kUbBytes);

 public:
  __aicore__ inline VoxelizeCollect(TPipe& pipe, const VoxelizeBucketsTiling& tiling,
                                    GM_ADDR groups, GM_ADDR range_bounds, GM_ADDR sums,
                                    GM_ADDR coors, GM_ADDR num_points, GM_ADDR slots)
      : tiling_(tiling),
        numbers_(TakeNumbers(pipe, kMost, kMost)),
        places_(pipe, numbers_, kMost),
        first_(Take<int32_t>(pipe, kPlanes * kMost)),
        cell_(first_[kMost]),
        row_(first_[2 * kMost]),
        begin_(Take<int32_t>(pipe, kVoxels + kBlockWords)),
        points_before_(Take<int32_t>(pipe, 2 * kVoxelizeRanges)),
        voxels_before_(points_before_[kVoxelizeRanges]),
        mask_(Take<uint8_t>(pipe, kMost / 8)) {
    Bind(groups_, groups, range_bounds_, range_bounds, sums_, sums, coors_, coors, num_points_,
         num_points, slots_, slots);
    Take(pipe, kSlots, voxel_, slot_);
    Take(pipe, kVoxels, size_, place_);
  }

  __aicore__ inline void Process() {
    FindShare();
    DivideLanes(voxel_, slot_, tiling_.max_points, tiling_.inverse_max_points, slot_voxels());
    SetAtomicAdd<int32_t>();
    while (range_ < end_) {
      NextRanges();
      if (points_ > 0 && voxel_begin_ < tiling_.voxels) {
        Load();
        FindVoxels();
        WriteSlots();
        WriteCoors();
        SetWait<HardEvent::MTE3_V>();
      }
      range_ = next_;
      SetWait<HardEvent::S_MTE2>();
    }
    SetAtomicNone();
  }

 private:
  __aicore__ inline int32_t slot_voxels() const {
    return MinOf(kSlots / tiling_.max_points, kVoxels) / kBlockWords * kBlockWords;
  }

  // Ranges [range_, end_): those that begin in the block's share of the work, which is points and
  // voxels.
  __aicore__ inline void FindShare() {
    DataCopyPad(points_before_, sums_,
                {2, static_cast<uint32_t>((tiling_.ranges + 1) * kWord),
                 static_cast<uint32_t>((tiling_.range_pitch - tiling_.ranges - 1) * kWord),
                 static_cast<uint32_t>((kVoxelizeRanges - tiling_.range_pitch) / kBlockWords), 0},
                {false, 0, 0, 0});
    SetWait<HardEvent::MTE2_S>();
    const int64_t work = WorkBefore(tiling_.ranges), blocks = GetBlockNum();
    range_ = FirstRange(static_cast<int32_t>((work * GetBlockIdx() + blocks - 1) / blocks));
    end_ = FirstRange(static_cast<int32_t>((work * (GetBlockIdx() + 1) + blocks - 1) / blocks));
  }

  __aicore__ inline int32_t WorkBefore(int32_t range) const {
    return points_before_.GetValue(range) + voxels_before_.GetValue(range);
  }

  // The first range with so much work before it.
  __aicore__ inline int32_t FirstRange(int32_t work) const {
    int32_t low = 0, high = tiling_.ranges;
    while (low < high) {
      const int32_t middle = (low + high) / 2;
      if (WorkBefore(middle) < work)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }

  // Ranges [range_, next_): as many as fit, at least one; their points and voxels.
  __aicore__ inline void NextRanges() {
    const int32_t most = kMost - kBlockWords * (1 + tiling_.buckets);  // pieces are padded
    const int32_t point_begin = points_before_.GetValue(range_);
    voxel_begin_ = voxels_before_.GetValue(range_);
    next_ = range_;
    for (int32_t end = range_ + 1; end <= end_; end++) {
      const int32_t points = points_before_.GetValue(end) - point_begin;
      const int32_t voxels = voxels_before_.GetValue(end) - voxel_begin_;
      if (next_ > range_ && (points > most || voxels > kVoxels)) break;
      next_ = end;
      points_ = points;
      voxels_ = voxels;
    }
  }

  // The points of these ranges of all buckets, sorted by the first point of their voxel.
  __aicore__ inline void Load() {
    const LocalTensor<int32_t> from = places_.list(0), to = from[kPieces];
    const DataCopyExtParams column{static_cast<uint16_t>(tiling_.buckets), kWord,
                                   static_cast<uint32_t>((tiling_.range_pitch - 1) * kWord), 0, 0};
    SetWait<HardEvent::V_MTE2>();
    DataCopyPad(from, range_bounds_[range_], column, {false, 0, 0, 0});
    DataCopyPad(to, range_bounds_[next_], column, {false, 0, 0, 0});
    SetWait<HardEvent::MTE2_S>();
    const Lists lists{kPlanes, static_cast<int64_t>(tiling_.buckets) * kMost, kMost};
    int32_t at = 0;
    for (int32_t bucket = 0; bucket < tiling_.buckets; bucket++)
      at = LoadPiece(first_, at, kMost, groups_, lists, bucket, from.GetValue(bucket * kBlockWords),
                     to.GetValue(bucket * kBlockWords));
    SetWait<HardEvent::S_V>();
    SetWait<HardEvent::MTE2_V>();
    PadPieces(first_, at);
    places_.Sort(first_, at);
  }

  // row_: the points in order; begin_ and size_ of the voxels in them; place_: of the first ones,
  // before.
  __aicore__ inline void FindVoxels() {
    const LocalTensor<int32_t> place = places_.places(), end = places_.list(0);
    places_.MarkChanges(mask_, 1, points_);
    Muls(place, place, kWord, points_);
    Duplicate(begin_, points_, voxels_ + 1);
    PipeBarrier<PIPE_V>();
    Gather(places_.list(1), row_, place.ReinterpretCast<uint32_t>(), 0, points_);
    Compact(begin_, numbers_, mask_, points_);
    Compact(place_, place, mask_, points_);
    Adds(row_, places_.list(1), 0, points_);
    Muls(end, numbers_, kWord, voxels_);
    PipeBarrier<PIPE_V>();
    Gather(end, begin_, end.ReinterpretCast<uint32_t>(), kWord, voxels_);
    PipeBarrier<PIPE_V>();
    Sub(size_, end, begin_, voxels_);
    voxels_ = MinOf(voxels_, tiling_.voxels - voxel_begin_);
    PipeBarrier<PIPE_V>();
    SetWait<HardEvent::V_MTE3>();
    DataCopyPad(num_points_[voxel_begin_], size_, Words(voxels_));
  }

  __aicore__ inline void WriteSlots() {
    const LocalTensor<int32_t> at = places_.list(0), place = places_.list(1);
    const LocalTensor<int32_t> out = places_.places(), offset = places_.scores();
    for (int32_t first = 0; first < voxels_; first += slot_voxels()) {
      const int32_t lanes = MinOf(slot_voxels(), voxels_ - first) * tiling_.max_points;
      const LocalTensor<uint32_t> voxel = voxel_.ReinterpretCast<uint32_t>();
      Gather(at, begin_, voxel, first * kWord, lanes);
      Gather(place, size_, voxel, first * kWord, lanes);
      PipeBarrier<PIPE_V>();
      Add(at, at, slot_, lanes);
      Sub(place, place, slot_, lanes);
      PipeBarrier<PIPE_V>();
      Mins(at, at, points_ - 1, lanes);
      Adds(place, place, -1, lanes);  // negative in empty slots
      PipeBarrier<PIPE_V>();
      Muls(offset, at, kWord, lanes);
      ShiftRight(place, place, 31, lanes);
      SetWait<HardEvent::MTE3_V>();
      PipeBarrier<PIPE_V>();
      Gather(out, row_, offset.ReinterpretCast<uint32_t>(), 0, lanes);
      PipeBarrier<PIPE_V>();
      Or(out.ReinterpretCast<uint16_t>(), out.ReinterpretCast<uint16_t>(),
         place.ReinterpretCast<uint16_t>(), 2 * lanes);
      SetWait<HardEvent::V_MTE3>();
      DataCopyPad(slots_[static_cast<int64_t>(voxel_begin_ + first) * tiling_.max_points], out,
                  Words(lanes));
      PipeBarrier<PIPE_V>();
    }
    SetWait<HardEvent::MTE3_V>();
  }

  // Of a voxel's score its bucket is the quotient by the cells of a bucket.
  __aicore__ inline void WriteCoors() {
    const LocalTensor<int32_t> key = place_, quotient = begin_, column = places_.list(0);
    IntegerLanes lanes(places_.list(1), places_.list(1)[kVoxels]);
    Gather(key, cell_, place_.ReinterpretCast<uint32_t>(), 0, voxels_);
    PipeBarrier<PIPE_V>();
    Adds(key, key, -kKeyToScore, voxels_);
    PipeBarrier<PIPE_V>();
    lanes.Divide(quotient, key, tiling_.bucket_cells, tiling_.inverse_bucket_cells, voxels_);
    Muls(key, key, tiling_.buckets, voxels_);
    PipeBarrier<PIPE_V>();
    Add(key, key, quotient, voxels_);
    PipeBarrier<PIPE_V>();
    for (int32_t d = 0; d < tiling_.ndim; d++) {
      const LocalTensor<int32_t> coordinate = column[(tiling_.ndim - 1 - d) * kVoxels];
      Adds(coordinate, key, 0, voxels_);
      PipeBarrier<PIPE_V>();
      if (d + 1 < tiling_.ndim)
        lanes.Divide(key, coordinate, static_cast<int32_t>(tiling_.cells[d]),
                     tiling_.inverse_cells[d], voxels_);
    }
    // Word j of the result is word j / ndim of column j % ndim.
    const LocalTensor<int32_t> row = places_.scores(), offset = first_, out = cell_;
    DivideLanes(row, offset, tiling_.ndim, tiling_.inverse_ndim, voxels_);
    const int32_t words = voxels_ * tiling_.ndim;
    Muls(offset, offset, kVoxels * kWord, words);
    PipeBarrier<PIPE_V>();
    Add(offset, offset, row, words);
    PipeBarrier<PIPE_V>();
    Gather(out, column, offset.ReinterpretCast<uint32_t>(), 0, words);
    SetWait<HardEvent::V_MTE3>();
    DataCopyPad(coors_[static_cast<int64_t>(voxel_begin_) * tiling_.ndim], out, Words(words));
  }

  // Lane i of `groups` * width is number i % width of group i / width, which is an offset in bytes.
  // Of 8 groups it is computed, the others follow from those.
  __aicore__ inline void DivideLanes(const LocalTensor<int32_t>& group,
                                     const LocalTensor<int32_t>& number, int32_t width,
                                     float inverse, int32_t groups) {
    int32_t have = MinOf(kBlockWords, groups);
    IntegerLanes lanes(places_.list(1), places_.places());
    Adds(number, numbers_, 0, have * width);
    PipeBarrier<PIPE_V>();
    lanes.Divide(group, number, width, inverse, have * width);
    Muls(group, group, kWord, have * width);
    PipeBarrier<PIPE_V>();
    for (; have < groups; have *= 2) {
      const int32_t more = MinOf(have, groups - have) * width;
      Adds(group[have * width], group, have * kWord, more);
      Adds(number[have * width], number, 0, more);
      PipeBarrier<PIPE_V>();
    }
  }

  const VoxelizeBucketsTiling tiling_;
  LocalTensor<int32_t> numbers_;
  PlaceSort places_;
  LocalTensor<int32_t> first_, cell_, row_;
  LocalTensor<int32_t> voxel_, slot_, begin_, size_, place_, points_before_, voxels_before_;
  LocalTensor<uint8_t> mask_;
  GlobalTensor<int32_t> groups_, range_bounds_, sums_, coors_, num_points_, slots_;
  int32_t range_ = 0, next_ = 0, end_ = 0;
  int32_t points_ = 0, voxels_ = 0, voxel_begin_ = 0;  // of the ranges
};

}  // namespace
}  // namespace mxd::kernels

// Of groups, range_bounds and sums of the step before: adds to coors int32 [voxels, ndim],
// num_points int32 [voxels] and slots int32 [voxels, max_points], which hold zeros, as blocks may
// write into the same 32 bytes.
extern "C" __global__ __aicore__ void voxelize_collect(GM_ADDR groups, GM_ADDR range_bounds,
                                                       GM_ADDR sums, GM_ADDR coors,
                                                       GM_ADDR num_points, GM_ADDR slots,
                                                       VoxelizeBucketsTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::VoxelizeCollect>(tiling, groups, range_bounds, sums, coors,
                                                         num_points, slots);
}
