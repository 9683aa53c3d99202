// The first step of hard voxelization: points to keys of their cells, and each run of points sorted
// by the buckets of their cells, and by cell. What is beyond max_points of a cell in a run is left
// out, and so are points outside of the grid.
#include "common/integer_lanes.h"
#include "common/run.h"
#include "sort/search.h"
#include "voxelize/cells.h"
#include "voxelize/places.h"
#include "voxelize_tiling.h"

namespace mxd::kernels {
namespace {

template <typename T>
class VoxelizeSplit {
  using Cells = PointCells<T, VoxelizeBucketsTiling>;
  static constexpr int32_t kBounds = kVoxelizeBuckets + kBlockWords;
  static constexpr int32_t kHalf = PlaceSort::Words(kVoxelizeRun) / 2;
  static constexpr int32_t kOutside = 0xff7fffff - (1ll << 32);  // the score behind all keys
  static_assert(kOutside == kSortMaxKey + kKeyToScore);
  static_assert(Cells::kWords + Cells::kChunk <= 2 * kVoxelizeRun);
  // Select needs 8 KB of its own.
  static_assert((2 * kVoxelizeRun + kLanes + 2 * kHalf + 3 * kBounds) * kWord +
                    2 * kVoxelizeRun / 8 <=
                kUbBytes - 8192);

 public:
  __aicore__ inline VoxelizeSplit(TPipe& pipe, const VoxelizeBucketsTiling& tiling, GM_ADDR points,
                                  GM_ADDR planes, GM_ADDR bounds, GM_ADDR sums)
      : tiling_(tiling),
        address_(points),
        numbers_(
            TakeNumbers(pipe, kVoxelizeRun, RoundUp(MaxOf(tiling.run, Cells::kChunk), kLanes))),
        places_(pipe, numbers_, kVoxelizeRun),
        score_(Take<int32_t>(pipe, kVoxelizeRun + kLanes)),
        inside_(Take<uint8_t>(pipe, kVoxelizeRun / 8)),
        kept_(Take<uint8_t>(pipe, kVoxelizeRun / 8)) {
    Bind(planes_, planes, bounds_, bounds, sums_, sums);
    Take(pipe, kBounds, target_, position_, scratch_);
    Muls(target_, numbers_, tiling_.bucket_cells, tiling_.buckets + 1);
    PipeBarrier<PIPE_V>();
    Adds(target_, target_, kKeyToScore, tiling_.buckets + 1);
    PipeBarrier<PIPE_V>();
  }

  __aicore__ inline void Process() {
    if (GetBlockIdx() == 0) ClearSums();
    for (int32_t run = GetBlockIdx(); run < tiling_.runs; run += GetBlockNum()) {
      const int32_t begin = run * tiling_.run;
      const int32_t count = MinOf(tiling_.run, tiling_.points - begin);
      FindScores(begin, count);
      places_.Sort(score_, count);
      Write(run, begin, Keep(count));
      SetWait<HardEvent::MTE3_V>();
    }
  }

 private:
  // What the next step adds to.
  __aicore__ inline void ClearSums() {
    const int32_t words = 2 * tiling_.range_pitch + kBlockWords;
    Duplicate(places_.scores(), 0, words);
    SetWait<HardEvent::V_MTE3>();
    DataCopyPad(sums_, places_.scores(), Words(words));
  }

  // score_: bucket by bucket.
  __aicore__ inline void FindScores(int32_t begin, int32_t count) {
    Duplicate(score_[count / kLanes * kLanes], kPadScore, kLanes);
    PipeBarrier<PIPE_V>();
    const LocalTensor<int32_t> area = places_.list(0), cell = area[Cells::kWords];
    const Cells cells(tiling_, area, numbers_, address_);
    for (int32_t at = 0; at < count; at += cells.chunk()) {
      const int32_t points = MinOf(cells.chunk(), count - at);
      const LocalTensor<int32_t> key = score_[at];
      cells.Load(begin + at, points);
      for (int32_t d = 0; d < tiling_.ndim; d++) {
        cells.Find(d, d == 0 ? key : cell, inside_[at / 8], points);
        if (d == 0) continue;
        Muls(cell, cell, tiling_.step[d], points);
        PipeBarrier<PIPE_V>();
        Add(key, key, cell, points);
        PipeBarrier<PIPE_V>();
      }
    }
    // The key of a bucket is the quotient.
    const LocalTensor<int32_t> quotient = places_.scores();
    SetWait<HardEvent::MTE3_V>();  // the sums are cleared
    IntegerLanes(area, places_.list(1))
        .Divide(quotient, score_, tiling_.buckets, tiling_.inverse_buckets, count);
    Muls(score_, score_, tiling_.bucket_cells, count);
    Adds(quotient, quotient, kKeyToScore, count);
    PipeBarrier<PIPE_V>();
    Add(score_, score_, quotient, count);
    PipeBarrier<PIPE_V>();
    const LocalTensor<float> score = score_.ReinterpretCast<float>();
    Select(score, inside_, score, -kMostFloat, SELMODE::VSEL_TENSOR_SCALAR_MODE, count);
    PipeBarrier<PIPE_V>();
  }

  // list(0) and list(1): scores and places of those points that are kept. How many.
  __aicore__ inline int32_t Keep(int32_t count) {
    const int32_t whole = RoundUp(count, kLanes);
    CompareScalar(kept_, places_.scores().ReinterpretCast<float>(), -kMostFloat, CMPMODE::GT,
                  whole);
    PipeBarrier<PIPE_V>();
    if (tiling_.max_points < count) {
      places_.MarkChanges(inside_, tiling_.max_points, count);
      And(kept_.ReinterpretCast<uint16_t>(), kept_.ReinterpretCast<uint16_t>(),
          inside_.ReinterpretCast<uint16_t>(), whole / 16);
      PipeBarrier<PIPE_V>();
    }
    Duplicate(places_.list(0), kPadScore, MinOf(kVoxelizeRun, 2 * whole));
    PipeBarrier<PIPE_V>();
    Compact(places_.list(1), places_.places(), kept_, count);
    return Compact(places_.list(0), places_.scores(), kept_, count);
  }

  __aicore__ inline void Write(int32_t run, int32_t begin, int32_t kept) {
    const LocalTensor<int32_t> score = places_.list(0), row = places_.list(1);
    CountBelow(position_, score, target_, scratch_, PowerAbove(kept), tiling_.buckets + 1);
    ShiftRight(position_, position_, 2, tiling_.buckets + 1);
    if (kept > 0) Adds(row, row, begin, kept);
    SetWait<HardEvent::V_MTE3>();
    DataCopyPad(bounds_[static_cast<int64_t>(run) * tiling_.bucket_pitch], position_,
                Words(tiling_.buckets + 1));
    if (kept == 0) return;
    const auto plane = static_cast<int64_t>(tiling_.runs) * tiling_.run;
    DataCopyPad(planes_[begin], score,
                {2, static_cast<uint32_t>(kept * kWord),
                 static_cast<uint32_t>((kVoxelizeRun - RoundUp(kept, kBlockWords)) / kBlockWords),
                 static_cast<uint32_t>((plane - kept) * kWord), 0});
  }

  static constexpr float kMostFloat = 3.4028234663852886e38f;  // its negative: kOutside's bits

  const VoxelizeBucketsTiling tiling_;
  GM_ADDR address_;
  LocalTensor<int32_t> numbers_;
  PlaceSort places_;
  GlobalTensor<int32_t> planes_, bounds_, sums_;
  LocalTensor<int32_t> score_, target_, position_, scratch_;
  LocalTensor<uint8_t> inside_, kept_;
};

}  // namespace
}  // namespace mxd::kernels

// Of points [points, channels]: planes int32 [2, runs, run], the scores and rows of each run's
// points, sorted by score; and bounds int32 [runs, bucket_pitch], where the buckets begin in them.
// Clears sums int32 [2 * range_pitch + 8].
extern "C" __global__ __aicore__ void voxelize_split(GM_ADDR points, GM_ADDR planes, GM_ADDR bounds,
                                                     GM_ADDR sums, VoxelizeBucketsTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunFor<mxd::kernels::VoxelizeSplit>(tiling, points, planes, bounds, sums);
}
