// Sparse convolution by a plan: out[o] = bias + sum over the pairs (i, o) of every kernel offset k
// of in[i] @ weight[k], where the sums stay in the cube core.
//
// A block (one cube core, two vector cores) takes two tiles of kPlanRows output rows and a panel of
// output columns at a time, a tile for each vector core. The plan has the tile's rows in an order
// in which those with the same kernel points are together, and its pairs as blocks of 16 rows for
// one kernel point. In steps of a chunk of blocks:
//   1. each vector core gathers its chunk's input rows, zeros where there is no pair, into a
//      workspace (it stays in L2);
//   2. the cube core multiplies every block by the weight of its kernel point, which stays in L1,
//      and adds the products to the tile's sums in L0C;
// and when a tile is done:
//   3. the cube core writes its sums, and the vector core puts them in order, adds the bias, and
//      writes the rows, while the next tile's are gathered.
//
// An output row takes its products in the order of the kernel offsets, whatever the number of
// blocks: results are the same from run to run.
//
// sparse_conv_planned/ holds the stages: plan, gather, cube, epilogue.
#include "common/run.h"
#include "sparse_conv_planned/cube.h"
#include "sparse_conv_planned/epilogue.h"
#include "sparse_conv_planned/gather.h"
#include "sparse_conv_planned/plan.h"
#include "sparse_conv_tiling.h"

namespace mxd::kernels::sparse_conv_planned {
namespace {

template <typename T>
class VectorCore {
  // The heads of both tiles' records, and two whole ones of this core's.
  static constexpr int32_t kHeadWords = kPlanLowest;
  static constexpr int32_t kRecordBytes = (2 * kHeadWords + 2 * kPlanWords) * kWord;
  static constexpr int32_t kLeft =
      kUbBytes - kRecordBytes - Epilogue<T>::kUbBytes - Gatherer<T>::kUbBytes;

 public:
  __aicore__ inline VectorCore(TPipe& pipe, const SparseConvTiling& tiling, GM_ADDR features,
                               GM_ADDR bias, GM_ADDR plan, GM_ADDR gathered, GM_ADDR sums,
                               GM_ADDR out)
      : tiling_(tiling),
        couples_(CeilDiv(tiling.tiles, 2)),
        heads_(Take<int32_t>(pipe, 2 * kHeadWords)),
        records_(Take<int32_t>(pipe, 2 * kPlanWords)),
        epilogue_(pipe, sums, bias, out, tiling_),
        gatherer_(pipe, features, gathered, tiling_, epilogue_.spare(), kLeft) {
    plan_.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(plan));
  }

  __aicore__ inline void Process() {
    PipeBarrier<PIPE_ALL>();  // tables and zeros are written
    gatherer_.Begin();
    epilogue_.Begin();
    const int32_t units = couples_ * tiling_.groups * tiling_.panels, first = GetBlockIdx() / 2;
    int32_t before = -1;
    for (int32_t unit = first; unit < units; unit += GetBlockNum(), turn_ = 1 - turn_) {
      Gather(unit);
      if (before >= 0) Write(before, 1 - turn_);
      before = unit;
    }
    if (before >= 0) Write(before, 1 - turn_);
    for (int32_t left = MaxOf(0, step_ - kSteps); left < step_; ++left) CrossCoreWaitFlag(kTaken);
    epilogue_.End();
    gatherer_.End();
  }

 private:
  __aicore__ inline int32_t Tile(int32_t unit, int32_t side) const {
    return unit % couples_ * 2 + side;
  }
  __aicore__ inline LocalTensor<int32_t> Record(int32_t turn) const {
    return records_[turn * kPlanWords];
  }

  __aicore__ inline void Gather(int32_t unit) {
    const int32_t side = GetSubBlockIdx(), tile = Tile(unit, side);
    const int32_t panel = unit / couples_;
    const int32_t there = MinOf(2, tiling_.tiles - Tile(unit, 0));
    SetWait<HardEvent::S_MTE2>();
    SetWait<HardEvent::V_MTE2>();
    DataCopy(heads_, plan_[static_cast<int64_t>(Tile(unit, 0)) * kPlanWords],
             DataCopyParams(there, kHeadWords / kBlockWords,
                            (kPlanWords - kHeadWords) / kBlockWords, 0));
    if (side < there)
      DataCopy(Record(turn_), plan_[static_cast<int64_t>(tile) * kPlanWords], kPlanWords);
    SetWait<HardEvent::MTE2_S>();
    Blocks blocks[2];
    for (int32_t i = 0; i < 2; ++i)
      blocks[i].Open(heads_[i * kHeadWords].ReinterpretCast<int64_t>(), tiling_.volume, i < there);
    Blocks& own = blocks[side];
    if (own.count() > 0) {
      const int64_t lists = static_cast<int64_t>(tiling_.tiles) * kPlanWords;
      const int64_t first = heads_.GetValue(side * kHeadWords + kPlanFirst);
      gatherer_.Open(plan_[lists + first * kFractalRows], own.count(),
                     Record(turn_).template ReinterpretCast<int64_t>());
    }
    const int64_t column = static_cast<int64_t>(panel / tiling_.panels) * tiling_.in_channels;
    for (int32_t steps = Steps(blocks, tiling_); steps > 0; --steps, ++step_) {
      if (step_ >= kSteps) CrossCoreWaitFlag(kTaken);
      const int32_t count = MinOf(tiling_.step_rows / kFractalRows, own.left());
      if (count > 0) {
        const int32_t point = own.Point();
        gatherer_.Gather(step_, count, point, own.Skip(count), column);
      }
      CrossCoreSetFlag<2, PIPE_MTE3>(kGathered);
    }
  }

  __aicore__ inline void Write(int32_t unit, int32_t turn) {
    CrossCoreWaitFlag(kSummed);
    const int32_t tile = Tile(unit, GetSubBlockIdx());
    if (tile < tiling_.tiles)
      epilogue_.Write(turn, tile, unit / couples_, Record(turn)[kPlanPlaces]);
    SetWait<HardEvent::MTE2_MTE3>();  // rows gathered from now on say that these sums are read
  }

  const SparseConvTiling tiling_;
  const int32_t couples_;
  GlobalTensor<int32_t> plan_;
  LocalTensor<int32_t> heads_, records_;
  Epilogue<T> epilogue_;
  Gatherer<T> gatherer_;
  int32_t step_ = 0, turn_ = 0;
};

}  // namespace
}  // namespace mxd::kernels::sparse_conv_planned

extern "C" __global__ __aicore__ void sparse_conv_planned(GM_ADDR features, GM_ADDR weight,
                                                          GM_ADDR bias, GM_ADDR plan,
                                                          GM_ADDR gathered, GM_ADDR sums,
                                                          GM_ADDR out, SparseConvTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  using namespace mxd::kernels;
  if ASCEND_IS_AIC {
    RunFor<sparse_conv_planned::CubeCore>(tiling, weight, plan, gathered, sums);
  }
  if ASCEND_IS_AIV {
    RunFor<sparse_conv_planned::VectorCore>(tiling, features, bias, plan, gathered, sums, out);
  }
}
