// Adds up the products of the blocks of two tiles at once, one tile of each vector core, in L0C.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../common/matrix_tile.h"
#include "../common/nz.h"
#include "../sparse_conv/weights.h"
#include "kernel_operator.h"
#include "plan.h"

namespace mxd::kernels::sparse_conv_planned {

template <typename T>
class CubeCore {
 public:
  __aicore__ inline CubeCore(TPipe& pipe, const SparseConvTiling& tiling, GM_ADDR weight,
                             GM_ADDR plan, GM_ADDR gathered, GM_ADDR sums)
      : tiling_(tiling),
        chunk_(ChunkElements(tiling)),
        block_(kFractalRows * tiling.in_channels),
        rows_(Take<T, TPosition::A1>(pipe, 2 * 2 * chunk_)),
        weights_(pipe, weight, Take<T, TPosition::A1>(pipe, kL1Bytes / sizeof(T) - 2 * 2 * chunk_),
                 tiling),
        left_(Take<T, TPosition::A2>(pipe, kL0Bytes / sizeof(T))),
        right_(Take<T, TPosition::B2>(pipe, kL0Bytes / sizeof(T))),
        sums_(Take<float, TPosition::CO1>(pipe, kL0cBytes / sizeof(float))) {
    plan_.SetGlobalBuffer(reinterpret_cast<__gm__ int64_t*>(plan));
    gathered_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(gathered) +
                              static_cast<int64_t>(GetBlockIdx()) * kSteps * 2 * chunk_);
    sums_out_.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(sums) +
                              static_cast<int64_t>(GetBlockIdx()) * 4 * SumElements(tiling));
    rows_free_.Init(pipe, 2);
    rows_full_.Init(pipe, 2);
    left_free_.Init(pipe, 2);
    right_free_.Init(pipe, 2);
    operands_full_.Init(pipe, 1);
    sums_free_.Init(pipe, 2);
    sums_full_.Init(pipe, 2);
  }

  __aicore__ inline void Process() {
    SetHF32Mode(false);  // plain fp32, whatever the kernel before left set
    rows_free_.SetAll();
    left_free_.SetAll();
    right_free_.SetAll();
    sums_free_.SetAll();
    weights_.Begin();
    couples_ = CeilDiv(tiling_.tiles, 2);
    const int32_t units = couples_ * tiling_.groups * tiling_.panels;
    int32_t step = 0, turn = 0;
    Open(GetBlockIdx(), units, 0);
    for (int32_t unit = GetBlockIdx(); unit < units; unit += GetBlockNum(), turn = 1 - turn) {
      weights_.Open(unit / couples_);
      blocks_ = all_blocks_[turn];
      const int32_t steps = Steps(all_blocks_[turn], tiling_);
      for (int32_t i = 0; i < steps; ++i) {
        Load(step);
        for (int32_t side = 0; side < 2; ++side) Multiply(step, side, i == 0);
        left_free_.Set(step++ % 2);
        // While the cube core works: a word of global memory takes 400 cycles.
        if (i == 0) Open(unit + GetBlockNum(), units, 1 - turn);
      }
      for (int32_t side = 0; side < 2; ++side) Write(turn, side);
      CrossCoreSetFlag<2, PIPE_FIX>(kSummed);
    }
    rows_free_.WaitAll();
    left_free_.WaitAll();
    right_free_.WaitAll();
    sums_free_.WaitAll();
    weights_.End();
  }

 private:
  static constexpr int32_t kOperand = kOperandBytes / static_cast<int32_t>(sizeof(T));
  static constexpr int32_t kSum = kSumBytes / static_cast<int32_t>(sizeof(float));

  // Reads which blocks a couple of tiles has.
  __aicore__ inline void Open(int32_t unit, int32_t units, int32_t turn) {
    if (unit >= units) return;
    for (int32_t side = 0; side < 2; ++side) {
      const int32_t tile = unit % couples_ * 2 + side;
      all_blocks_[turn][side].Open(plan_[static_cast<int64_t>(tile) * (kPlanWords / 2)],
                                   tiling_.volume, tile < tiling_.tiles);
    }
  }

  __aicore__ inline int32_t InChunk(int32_t side) const {
    return MinOf(tiling_.step_rows / kFractalRows, blocks_[side].left());
  }

  // Loads a step's rows into the left operand.
  __aicore__ inline void Load(int32_t step) {
    const int32_t buffer = step % 2;
    const LocalTensor<T> rows = rows_[buffer * 2 * chunk_];
    const GlobalTensor<T> from = gathered_[step % kSteps * 2 * chunk_];
    CrossCoreWaitFlag(kGathered);
    rows_free_.Wait(buffer);
    for (int32_t side = 0; side < 2; ++side)
      if (const int32_t blocks = InChunk(side))
        DataCopy(rows[side * chunk_], from[side * chunk_], blocks * block_);
    CrossCoreSetFlag<2, PIPE_MTE2>(kTaken);
    rows_full_.SetWait(buffer);
    left_free_.Wait(buffer);
    for (int32_t side = 0; side < 2; ++side)
      if (const int32_t blocks = InChunk(side))
        LoadData(left_[buffer * kOperand + side * chunk_], rows[side * chunk_],
                 LoadData2DParams(0, blocks * block_ / kFractalElements<T>, 1, 0, 0, false, 0));
    rows_free_.Set(buffer);
  }

  // Adds the products of one side's chunk.
  __aicore__ inline void Multiply(int32_t step, int32_t side, bool first_step) {
    Blocks& blocks = blocks_[side];
    const int32_t count = InChunk(side);
    if (first_step && count > 0) sums_free_.Wait(side);
    for (int32_t i = 0; i < count;) {
      const int32_t point = blocks.Point();
      const LocalTensor<T> weight = weights_.Load(point, 0);
      right_free_.Wait(buffer_);
      LoadData(
          right_[buffer_ * kOperand], weight,
          LoadData2DParams(0, weights_.block_elements() / kFractalElements<T>, 1, 0, 0, false, 0));
      weights_.Free(point, 0);
      operands_full_.SetWait();
      PipeBarrier<PIPE_M>();
      for (; i < count && blocks.Point() == point; ++i) {
        bool first;
        const int32_t place = blocks.Take(first);
        Mmad(sums_[side * kSum + place * kFractalRows * tiling_.panel],
             left_[step % 2 * kOperand + side * chunk_ + i * block_], right_[buffer_ * kOperand],
             MmadParams(kFractalRows, tiling_.panel, tiling_.in_channels, 0, false, first));
      }
      right_free_.Set(buffer_);
      buffer_ = 1 - buffer_;
    }
  }

  // Writes a tile's sums, [block, panel / 16, 16, 16].
  __aicore__ inline void Write(int32_t turn, int32_t side) {
    if (blocks_[side].count() == 0) return;
    sums_full_.SetWait(side);
    const int32_t rows = SumElements(tiling_) / kFractalRows;
    Fixpipe<float, float, CFG_NZ>(sums_out_[(turn * 2 + side) * SumElements(tiling_)],
                                  sums_[side * kSum],
                                  FixpipeParamsV220(kFractalRows, rows, rows, rows * 2, false));
    sums_free_.Set(side);
  }

  const SparseConvTiling tiling_;
  const int32_t chunk_, block_;  // elements
  LocalTensor<T> rows_;          // [2, 2, chunk]: of two steps, of both sides
  sparse_conv::Weights<T> weights_;
  LocalTensor<T> left_, right_;
  LocalTensor<float> sums_;
  GlobalTensor<int64_t> plan_;
  GlobalTensor<T> gathered_;
  GlobalTensor<float> sums_out_;
  Events<HardEvent::MTE1_MTE2> rows_free_;
  Events<HardEvent::MTE2_MTE1> rows_full_;
  Events<HardEvent::M_MTE1> left_free_, right_free_;
  Events<HardEvent::MTE1_M> operands_full_;
  Events<HardEvent::FIX_M> sums_free_;
  Events<HardEvent::M_FIX> sums_full_;
  Blocks all_blocks_[2][2];  // of this couple and the next one
  Blocks* blocks_ = nullptr;
  int32_t couples_ = 0, buffer_ = 0;
};

}  // namespace mxd::kernels::sparse_conv_planned
