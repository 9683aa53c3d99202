// The second step of hard voxelization: each bucket's points, sorted by cell, are told the first
// point of their voxel, and are sorted by it. What is beyond max_points of a voxel is left out.
#include "common/run.h"
#include "sort/search.h"
#include "voxelize/pieces.h"
#include "voxelize_tiling.h"

namespace mxd::kernels {
namespace {

class VoxelizeGroup {
  static constexpr int32_t kMost = kVoxelizeBucket;
  static constexpr int32_t kRanges = 1024;  // beginnings of ranges at once
  static constexpr int32_t kPlanes = 3;     // score, row, first point
  static_assert(((1 + kPlanes) * kMost + PlaceSort::Words(kMost) + kBlockWords * kVoxelizeRuns +
                 6 * kRanges + kBlockWords) *
                        kWord +
                    kMost / 8 <=
                kUbBytes - 8192);

 public:
  __aicore__ inline VoxelizeGroup(TPipe& pipe, const VoxelizeBucketsTiling& tiling, GM_ADDR planes,
                                  GM_ADDR bounds, GM_ADDR groups, GM_ADDR range_bounds,
                                  GM_ADDR sums)
      : tiling_(tiling),
        numbers_(TakeNumbers(pipe, kMost, kMost)),
        places_(pipe, numbers_, kMost),
        score_(Take<int32_t>(pipe, kPlanes * kMost)),
        row_(score_[kMost]),
        first_(score_[2 * kMost]),
        bounds_in_ub_(Take<int32_t>(pipe, kBlockWords * kVoxelizeRuns)),
        totals_(Take<int32_t>(pipe, kBlockWords)),
        mask_(Take<uint8_t>(pipe, kMost / 8)) {
    Bind(planes_, planes, bounds_, bounds, groups_, groups, range_bounds_, range_bounds, sums_,
         sums);
    Take(pipe, 2 * kRanges, target_, scratch_, position_);
  }

  __aicore__ inline void Process() {
    for (int32_t bucket = GetBlockIdx(); bucket < tiling_.buckets; bucket += GetBlockNum()) {
      const int32_t padded = Load(bucket);
      int32_t count = 0, voxels = 0;
      if (padded > 0 && loaded_ > 0) {
        places_.Sort(score_, padded);
        count = Keep(loaded_);
        FindFirst(count);
        places_.Sort(first_, count);
        voxels = Write(bucket, count);
      }
      WriteBounds(bucket, count);
      AddTotals(voxels, padded < 0);
      SetWait<HardEvent::MTE3_V>();
      SetWait<HardEvent::MTE3_MTE2>();
      SetWait<HardEvent::V_MTE2>();
      SetWait<HardEvent::S_MTE2>();
    }
  }

 private:
  // The bucket's pieces of all runs; -1 if they are too many. loaded_: their points.
  __aicore__ inline int32_t Load(int32_t bucket) {
    DataCopyPad(bounds_in_ub_, bounds_[bucket],
                {static_cast<uint16_t>(tiling_.runs), kPairBytes,
                 static_cast<uint32_t>((tiling_.bucket_pitch - kPairWords) * kWord), 0, 0},
                {false, 0, 0, 0});
    SetWait<HardEvent::MTE2_S>();
    const LocalTensor<int64_t> bounds = bounds_in_ub_.ReinterpretCast<int64_t>();
    const Lists lists{2, static_cast<int64_t>(tiling_.runs) * tiling_.run, tiling_.run};
    int32_t at = 0;
    loaded_ = 0;
    for (int32_t run = 0; run < tiling_.runs && at >= 0; run++) {
      const int64_t piece = bounds.GetValue(run * (kBlockBytes / 8));
      const auto from = static_cast<int32_t>(piece), to = static_cast<int32_t>(piece >> 32);
      loaded_ += to - from;
      at = LoadPiece(score_, at, kMost, planes_, lists, run, from, to);
    }
    SetWait<HardEvent::MTE2_V>();
    if (at > 0) PadPieces(score_, at);
    return at;
  }

  // score_ and row_: those that are kept of the sorted points. How many.
  __aicore__ inline int32_t Keep(int32_t count) {
    if (tiling_.max_points < count)
      places_.MarkChanges(mask_, tiling_.max_points, count);
    else
      Duplicate(mask_.ReinterpretCast<uint16_t>(), static_cast<uint16_t>(0xffff), kMost / 16);
    const LocalTensor<int32_t> place = places_.places(), row = places_.list(0);
    Muls(place, place, kWord, count);
    PipeBarrier<PIPE_V>();
    Gather(row, row_, place.ReinterpretCast<uint32_t>(), 0, count);
    PipeBarrier<PIPE_V>();
    const int32_t kept = Compact(row_, row, mask_, count);
    Compact(score_, places_.scores(), mask_, count);
    Adds(places_.scores(), score_, 0, kept);
    PipeBarrier<PIPE_V>();
    return kept;
  }

  // first_: the row of the first point of each one's voxel, as a score: that at the last change of
  // the cell, which is less than max_points places back.
  __aicore__ inline void FindFirst(int32_t count) {
    Duplicate(first_, kPadScore, RoundUp(count, kLanes));
    places_.MarkChanges(mask_, 1, count);
    const LocalTensor<float> place = places_.list(0).ReinterpretCast<float>();
    Cast(place, numbers_, RoundMode::CAST_NONE, count);
    PipeBarrier<PIPE_V>();
    Select(place, mask_, place, 0.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, count);
    PipeBarrier<PIPE_V>();
    Cast(places_.scores(), place, RoundMode::CAST_FLOOR, count);
    PipeBarrier<PIPE_V>();
    const LocalTensor<int32_t> last = places_.ScanMax(tiling_.max_points, count);
    Muls(last, last, kWord, count);
    PipeBarrier<PIPE_V>();
    Gather(first_, row_, last.ReinterpretCast<uint32_t>(), 0, count);
    PipeBarrier<PIPE_V>();
    Adds(first_, first_, kKeyToScore, count);
    PipeBarrier<PIPE_V>();
  }

  // Writes the points in the order of their voxels. How many voxels: places() has their first
  // points.
  __aicore__ inline int32_t Write(int32_t bucket, int32_t count) {
    const LocalTensor<int32_t> place = places_.places();
    places_.MarkChanges(mask_, 1, count);
    Muls(place, place, kWord, count);
    PipeBarrier<PIPE_V>();
    Gather(places_.list(0), score_, place.ReinterpretCast<uint32_t>(), 0, count);
    Gather(places_.list(1), row_, place.ReinterpretCast<uint32_t>(), 0, count);
    SetWait<HardEvent::V_MTE3>();
    const int64_t at = static_cast<int64_t>(bucket) * kMost;
    const int64_t plane = static_cast<int64_t>(tiling_.buckets) * kMost;
    DataCopyPad(groups_[at], places_.scores(), Words(count));
    DataCopyPad(groups_[plane + at], places_.list(0), Words(count));
    DataCopyPad(groups_[2 * plane + at], places_.list(1), Words(count));
    PipeBarrier<PIPE_V>();
    Duplicate(place, kPadScore, PowerAbove(count));
    PipeBarrier<PIPE_V>();
    return Compact(place, places_.scores(), mask_, count);
  }

  // Where the ranges begin, and adds that to the sums: points and voxels. Both are searched at
  // once: the first points of the voxels lie behind those of the points.
  __aicore__ inline void WriteBounds(int32_t bucket, int32_t count) {
    for (int32_t begin = 0; begin <= tiling_.ranges; begin += kRanges) {
      const int32_t ranges = MinOf(kRanges, tiling_.ranges + 1 - begin);
      const int32_t pitch = RoundUp(ranges, kBlockWords), lanes = 2 * pitch;
      const LocalTensor<int32_t> points = position_, voxels = position_[pitch];
      SetWait<HardEvent::MTE3_V>();
      Duplicate(points, 0, pitch);
      Duplicate(voxels, count > 0 ? kMost * kWord : 0, pitch);
      if (count > 0) {
        Adds(target_, numbers_, begin, pitch);
        Adds(target_[pitch], numbers_, begin, pitch);
        PipeBarrier<PIPE_V>();
        Muls(target_, target_, tiling_.range, lanes);
        PipeBarrier<PIPE_V>();
        Adds(target_, target_, kKeyToScore, lanes);
        PipeBarrier<PIPE_V>();
        AddCountBelow(position_, places_.scores(), target_, scratch_, PowerAbove(count), lanes);
        ShiftRight(position_, position_, 2, lanes);
        PipeBarrier<PIPE_V>();
        Adds(voxels, voxels, -kMost, pitch);
      }
      SetWait<HardEvent::V_MTE3>();
      DataCopyPad(range_bounds_[static_cast<int64_t>(bucket) * tiling_.range_pitch + begin], points,
                  Words(ranges));
      if (count == 0) continue;
      SetAtomicAdd<int32_t>();
      DataCopyPad(sums_[begin], points, Words(ranges));
      DataCopyPad(sums_[tiling_.range_pitch + begin], voxels, Words(ranges));
      SetAtomicNone();
    }
  }

  __aicore__ inline void AddTotals(int32_t voxels, bool too_many) {
    Duplicate(totals_, too_many ? 1 : 0, kBlockWords);
    PipeBarrier<PIPE_V>();
    Duplicate(totals_, voxels, 1);
    SetWait<HardEvent::V_MTE3>();
    SetAtomicAdd<int32_t>();
    DataCopyPad(sums_[2 * tiling_.range_pitch], totals_, Words(kBlockWords));
    SetAtomicNone();
  }

  const VoxelizeBucketsTiling tiling_;
  LocalTensor<int32_t> numbers_;
  PlaceSort places_;
  LocalTensor<int32_t> score_, row_, first_;
  LocalTensor<int32_t> bounds_in_ub_, target_, scratch_, position_, totals_;
  LocalTensor<uint8_t> mask_;
  GlobalTensor<int32_t> planes_, bounds_, groups_, range_bounds_, sums_;
  int32_t loaded_ = 0;
};

}  // namespace
}  // namespace mxd::kernels

// Of planes int32 [2, runs, run] with bounds int32 [runs, bucket_pitch] of the step before: groups
// int32 [3, buckets, kVoxelizeBucket], the scores of the first points of the voxels, of the cells,
// and the rows of each bucket's points, sorted by the first; and range_bounds int32 [buckets,
// range_pitch], where the ranges begin in them. Adds to sums int32 [2, range_pitch], points and
// voxels before each range, and behind them the voxels, and the buckets that were too large.
extern "C" __global__ __aicore__ void voxelize_group(GM_ADDR planes, GM_ADDR bounds, GM_ADDR groups,
                                                     GM_ADDR range_bounds, GM_ADDR sums,
                                                     VoxelizeBucketsTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::VoxelizeGroup>(tiling, planes, bounds, groups, range_bounds,
                                                       sums);
}
