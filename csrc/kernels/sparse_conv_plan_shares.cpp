// Puts the records of a plan in an order in which the core blocks that take couples of tiles in
// turn, couple i by core block i % shares, have about the same number of blocks.
//
// Couples come by size. They are given away in rounds, of one to each core block: the largest of a
// round goes to the core block that has the least until then, and so on. The last round, which may
// be a short one, is given away before all others.
//
// Each block of this kernel finds all shares, and copies some of the records.
#include "common/buffers.h"
#include "common/events.h"
#include "common/run.h"
#include "sort/score.h"
#include "sparse_conv_plan_tiling.h"

namespace mxd::kernels::sparse_conv_planned {
namespace {

class PlanShares {
  static constexpr int32_t kRounds = 64;  // whose sizes are in UB
  static constexpr int32_t kRow = 2 * kMostShares;

 public:
  __aicore__ inline PlanShares(TPipe& pipe, const SparseConvPlanSharesTiling& tiling, GM_ADDR sizes,
                               GM_ADDR order, GM_ADDR records, GM_ADDR plan)
      : tiling_(tiling), couples_(CeilDiv(tiling.tiles, 2)) {
    Bind(sizes_, sizes, order_, order, records_, records, plan_, plan);
    Take(pipe, kRounds * kRow, tile_sizes_);
    Take(pipe, kMostShares, score_, size_, other_size_);
    Take(pipe, kRow, sorted_);
    Take(pipe, kMostShares, core_block_);
    Take(pipe, 2 * kPlanWords, record_);
  }

  __aicore__ inline void Process() {
    constexpr float kNone = -1e30f;  // behind all core blocks
    const int32_t shares = tiling_.shares, last = CeilDiv(couples_, shares) - 1;
    Duplicate(tile_sizes_, 0.0f, kRounds * kRow);
    CreateVecIndex(core_block_, 0, kMostShares);
    Duplicate(score_, kNone, kMostShares);
    PipeBarrier<PIPE_V>();
    Duplicate(score_, 0.0f, shares);
    LoadSizes(last, 1);
    GiveAway(last, 0);
    for (int32_t begin = 0; begin < last; begin += kRounds) {
      const int32_t count = MinOf(kRounds, last - begin);
      LoadSizes(begin, count);
      for (int32_t i = 0; i < count; ++i) {
        Sort32(sorted_, score_, core_block_.ReinterpretCast<uint32_t>(), 1);
        PipeBarrier<PIPE_V>();
        const LocalTensor<int32_t> sorted = sorted_.ReinterpretCast<int32_t>();
        PairWords(score_.ReinterpretCast<int32_t>(), sorted, 0, kMostShares);
        PairWords(core_block_, sorted, 1, kMostShares);
        GiveAway(begin + i, i);
      }
    }
  }

 private:
  // tile_sizes_: a row for each round.
  __aicore__ inline void LoadSizes(int32_t round, int32_t rounds) {
    const int32_t row = 2 * tiling_.shares, begin = round * row;
    const int32_t bytes = MinOf(row, tiling_.tiles - begin) * kWord;
    const int32_t gap = (kRow * kWord - RoundUp(bytes, kBlockBytes)) / kBlockBytes;
    SetWait<HardEvent::V_MTE2>();
    DataCopyPad(tile_sizes_, sizes_[begin],
                {static_cast<uint16_t>(rounds), static_cast<uint32_t>(bytes), 0,
                 static_cast<uint32_t>(gap), 0},
                {true, 0, static_cast<uint8_t>((RoundUp(bytes, kBlockBytes) - bytes) / kWord), 0});
    SetWait<HardEvent::MTE2_V>();
  }

  // Gives the couples of a round to the core blocks in their order.
  __aicore__ inline void GiveAway(int32_t round, int32_t row) {
    const LocalTensor<int32_t> sizes = tile_sizes_[row * kRow].ReinterpretCast<int32_t>();
    PairWords(size_.ReinterpretCast<int32_t>(), sizes, 0, kMostShares);
    PairWords(other_size_.ReinterpretCast<int32_t>(), sizes, 1, kMostShares);
    PipeBarrier<PIPE_V>();
    Add(size_, size_, other_size_, kMostShares);
    PipeBarrier<PIPE_V>();
    Sub(score_, score_, size_, kMostShares);
    PipeBarrier<PIPE_V>();
    const int32_t first = round * tiling_.shares, end = MinOf(first + tiling_.shares, couples_);
    const int32_t blocks = GetBlockNum();
    int32_t couple = first + (GetBlockIdx() + blocks - first % blocks) % blocks;
    if (couple >= end) return;
    SetWait<HardEvent::V_S>();
    for (; couple < end; couple += blocks)
      CopyRecords(couple, first + core_block_.GetValue(couple - first));
    SetWait<HardEvent::S_V>();
  }

  __aicore__ inline void CopyRecords(int32_t couple, int32_t to) {
    const int32_t tiles = MinOf(2, tiling_.tiles - 2 * couple);
    for (int32_t i = 0; i < tiles; ++i)
      DataCopy(record_[i * kPlanWords], records_[order_.GetValue(2 * couple + i) * kPlanWords],
               kPlanWords);
    SetWait<HardEvent::MTE2_MTE3>();
    DataCopy(plan_[static_cast<int64_t>(to) * 2 * kPlanWords], record_, tiles * kPlanWords);
    SetWait<HardEvent::MTE3_MTE2>();
  }

  const SparseConvPlanSharesTiling tiling_;
  const int32_t couples_;
  GlobalTensor<float> sizes_;
  GlobalTensor<int64_t> order_;
  GlobalTensor<int32_t> records_, plan_;
  LocalTensor<float> tile_sizes_;                 // [kRounds, kRow]
  LocalTensor<float> score_, size_, other_size_;  // less the blocks of each core block; of couples
  LocalTensor<float> sorted_;                     // pairs of score and core block
  LocalTensor<int32_t> core_block_, record_;      // in the order of the scores
};

}  // namespace
}  // namespace mxd::kernels::sparse_conv_planned

// sizes fp32 [tiles], the largest first, and order int64 [tiles]: which tile each is of; records
// int32 [tiles, kPlanWords] in the order of the tiles. They go to the plan.
extern "C" __global__ __aicore__ void sparse_conv_plan_shares(GM_ADDR sizes, GM_ADDR order,
                                                              GM_ADDR records, GM_ADDR plan,
                                                              SparseConvPlanSharesTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::sparse_conv_planned::PlanShares>(tiling, sizes, order,
                                                                         records, plan);
}
