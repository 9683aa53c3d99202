// Sparse convolution by a plan: out[o] = bias + sum over the pairs (i, o) of every kernel offset k
// of in[i] @ weight[k], where the sums stay in the cube core.
//
// A block (one cube core, two vector cores) takes two tiles of kPlanRows output rows and a panel of
// output columns at a time, a tile for each vector core. The plan has the tile's rows in an order
// in which those with the same kernel points are together, and its pairs as blocks of a few rows
// for one kernel point. In steps of a chunk of blocks:
//   1. each vector core gathers its chunk's input rows, zeros where there is no pair, into a
//      workspace (it stays in L2); of wide rows a part of the channels at a time, so that windows
//      of enough rows fit into UB;
//   2. the cube core multiplies every block by the weight of its kernel point, which stays in L1,
//      and adds the products to the tile's sums in L0C, which begin with the bias;
// and when a tile is done:
//   3. the cube core writes its sums, and the vector core puts them in order and writes the rows,
//      while the next tile's are gathered.
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
  // The heads of both tiles' records.
  static constexpr int32_t kHeadWords = kPlanPlaces;
  static_assert(2 * kHeadWords * kWord + Epilogue<T>::kUbBytes + Gatherer<T>::kUbBytes <= kUbBytes);

 public:
  __aicore__ inline VectorCore(TPipe& pipe, const SparseConvTiling& tiling, GM_ADDR features,
                               GM_ADDR plan, GM_ADDR gathered, GM_ADDR sums, GM_ADDR out)
      : tiling_(tiling),
        heads_(Take<int32_t>(pipe, 2 * kHeadWords)),
        epilogue_(pipe, sums, out, tiling_),
        gatherer_(pipe, features, gathered, tiling_) {
    plan_.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(plan));
    heads_full_.Init(pipe, 1);
  }

  __aicore__ inline void Process() {
    PipeBarrier<PIPE_ALL>();  // zeros are written
    gatherer_.FreeAll();
    epilogue_.Begin();
    const int32_t side = GetSubBlockIdx();
    Units unit(tiling_, GetBlockIdx() / 2);
    LoadHeads(unit);
    for (int32_t turn = 0; unit.IsThere(); turn = 1 - turn) {
      const Units next = unit.Next();
      const int32_t record = 2 * unit.couple() + side, panel = unit.panel();
      const bool there = record < tiling_.tiles;
      heads_full_.Wait();
      const int32_t tile = there ? heads_.GetValue(side * kHeadWords + kPlanTile) : 0;
      Open(record, there);
      LoadHeads(next);
      Gather(panel / tiling_.panels);
      epilogue_.Finish();
      epilogue_.Open(turn, plan_[static_cast<int64_t>(record) * kPlanWords + kPlanPlaces], tile,
                     panel, there);
      unit = next;
    }
    epilogue_.Finish();
    for (int32_t left = MaxOf(0, step_ - kSteps); left < step_; ++left) CrossCoreWaitFlag(kTaken);
    epilogue_.End();
    gatherer_.End();
  }

 private:
  // Loads the heads of a unit's records.
  __aicore__ inline void LoadHeads(const Units& unit) {
    if (!unit.IsThere()) return;
    const int32_t first = 2 * unit.couple();
    SetWait<HardEvent::S_MTE2>();
    DataCopy(heads_, plan_[static_cast<int64_t>(first) * kPlanWords],
             DataCopyParams(MinOf(2, tiling_.tiles - first), kHeadWords / kBlockWords,
                            (kPlanWords - kHeadWords) / kBlockWords, 0));
    heads_full_.Set();
  }

  // Reads the heads.
  __aicore__ inline void Open(int32_t record, bool there) {
    const int32_t side = GetSubBlockIdx(), first = record - side;
    for (int32_t i = 0; i < 2; ++i) {
      blocks_[i].Open(first + i < tiling_.tiles ? tiling_.volume : 0);
      const LocalTensor<int64_t> head = heads_[i * kHeadWords].ReinterpretCast<int64_t>();
      for (int32_t w = 0; first + i < tiling_.tiles && w < Blocks::Words(tiling_.volume); ++w)
        blocks_[i].Add(w, head.GetValue(kPlanMasks / 2 + w));
    }
    if (!there) return;
    const LocalTensor<int32_t> head = heads_[side * kHeadWords];
    const int64_t list = ListOf(head.GetValue(kPlanTile), tiling_.tiles, tiling_.volume);
    gatherer_.Open(plan_[list], blocks_[side], head.ReinterpretCast<int64_t>());
  }

  // Gathers a unit's steps, of a group's channels; between them the unit before is finished, once
  // the cube core has probably done so.
  __aicore__ inline void Gather(int32_t group) {
    Blocks& own = blocks_[GetSubBlockIdx()];
    const int32_t part_steps = Steps(blocks_, tiling_), parts = Parts(tiling_);
    for (int32_t i = 0; i < part_steps * parts; ++i, ++step_) {
      if (i % part_steps == 0) {
        own.Begin();
        if (own.count() > 0) gatherer_.Begin(group * parts + i / part_steps);
      }
      if (step_ >= kSteps) CrossCoreWaitFlag(kTaken);
      const int32_t count = MinOf(tiling_.step_rows / kPlanBlockRows, own.left());
      if (count > 0) gatherer_.Gather(step_, own, count);
      CrossCoreSetFlag<2, PIPE_MTE3>(kGathered);
      if (i >= kSteps) epilogue_.Advance();
    }
  }

  const SparseConvTiling tiling_;
  GlobalTensor<int32_t> plan_;
  LocalTensor<int32_t> heads_;
  Events<HardEvent::MTE2_S> heads_full_;
  Epilogue<T> epilogue_;
  Gatherer<T> gatherer_;
  Blocks blocks_[2];
  int32_t step_ = 0;
};

}  // namespace
}  // namespace mxd::kernels::sparse_conv_planned

extern "C" __global__ __aicore__ void sparse_conv_planned(GM_ADDR features, GM_ADDR weight,
                                                          GM_ADDR bias, GM_ADDR plan,
                                                          GM_ADDR gathered, GM_ADDR sums,
                                                          GM_ADDR out, SparseConvTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  namespace planned = mxd::kernels::sparse_conv_planned;
  if ASCEND_IS_AIC {
    mxd::kernels::RunFor<planned::CubeCore>(tiling, weight, bias, plan, gathered, sums);
  }
  if ASCEND_IS_AIV {
    mxd::kernels::RunFor<planned::VectorCore>(tiling, features, plan, gathered, sums, out);
  }
}
