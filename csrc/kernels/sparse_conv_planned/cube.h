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
                             GM_ADDR bias, GM_ADDR plan, GM_ADDR gathered, GM_ADDR sums)
      : tiling_(tiling),
        chunk_(ChunkElements(tiling)),
        block_(kPlanBlockRows * tiling.in_step),
        words_(Blocks::Words(tiling.volume)),
        couples_(CeilDiv(tiling.tiles, 2)),
        rows_(Take<T, TPosition::A1>(pipe, 2 * 2 * chunk_)),
        bias_row_(Take<float, TPosition::A1>(pipe, kMaxPanel)),
        weights_(pipe, weight,
                 Take<T, TPosition::A1>(
                     pipe, (kL1Bytes - kMaxPanel * kWord) / sizeof(T) - 2 * 2 * chunk_),
                 tiling),
        left_(Take<T, TPosition::A2>(pipe, kL0Bytes / sizeof(T))),
        right_(Take<T, TPosition::B2>(pipe, kL0Bytes / sizeof(T))),
        sums_(Take<float, TPosition::CO1>(pipe, kL0cBytes / sizeof(float))),
        bias_table_(Take<float, TPosition::C2>(pipe, kMaxPanel)) {
    const int64_t core_bytes = static_cast<int64_t>(GetBlockIdx()) * sizeof(T);
    Bind(bias_, bias, plan_, plan, gathered_, gathered + core_bytes * kSteps * 2 * chunk_,
         sums_out_, sums + core_bytes * 4 * SumElements(tiling));
    rows_free_.Init(pipe, 2);
    rows_full_.Init(pipe, 2);
    left_free_.Init(pipe, 2);
    right_free_.Init(pipe, 2);
    operands_full_.Init(pipe, 1);
    sums_free_.Init(pipe, 2);
    sums_full_.Init(pipe, 2);
  }

  __aicore__ inline void Process() {
    const int32_t units = couples_ * tiling_.groups * tiling_.panels;
    const int32_t core_block = GetBlockIdx(), core_blocks = GetBlockNum();
    int32_t step = 0;
    SetHF32Mode(false);  // plain fp32, whatever the kernel before left set
    weights_.Begin();
    rows_free_.SetAll();
    left_free_.SetAll();
    right_free_.SetAll();
    sums_free_.SetAll();
    Open(core_block, units, 0);
    Read(2 * words_);
    for (int32_t round = 0, unit = core_block; unit < units; ++round) {
      const int32_t turn = round % 2, next = UnitOf(round + 1, core_block, core_blocks);
      weights_.Open(unit / couples_);
      LoadBias(unit / couples_);
      blocks_ = all_blocks_[turn];
      const int32_t part_steps = Steps(all_blocks_[turn], tiling_);
      const int32_t steps = part_steps * Parts(tiling_);
      Open(next, units, 1 - turn);
      for (int32_t i = 0; i < steps; ++i) {
        if (i % part_steps == 0) Begin();
        Load(step);
        for (int32_t side = 0; side < 2; ++side) Multiply(step, side, i / part_steps, i == 0);
        left_free_.Set(step++ % 2);
        Read((i + 1) * 2 * words_ / steps - i * 2 * words_ / steps);
      }
      for (int32_t side = 0; side < 2; ++side) Write(turn, side);
      CrossCoreSetFlag<2, PIPE_FIX>(kSummed);
      unit = next;
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

  // Begins to read which blocks a couple of tiles has.
  __aicore__ inline void Open(int32_t unit, int32_t units, int32_t turn) {
    unread_ = 2 * words_;
    opened_ = all_blocks_[turn];
    opened_record_ = unit < units ? unit % couples_ * 2 : tiling_.tiles;
    for (int32_t side = 0; side < 2; ++side)
      opened_[side].Open(opened_record_ + side < tiling_.tiles ? tiling_.volume : 0);
  }
  // Reads some words more, while the cube core works: each takes 400 cycles.
  __aicore__ inline void Read(int32_t count) {
    for (; count > 0 && unread_ > 0; --count, --unread_) {
      const int32_t side = unread_ > words_ ? 0 : 1, word = (2 * words_ - unread_) % words_;
      const int64_t record = opened_record_ + side;
      if (record < tiling_.tiles)
        opened_[side].Add(word, plan_.GetValue(record * (kPlanWords / 2) + kPlanMasks / 2 + word));
    }
  }

  __aicore__ inline void LoadBias(int32_t panel) {
    if (!tiling_.has_bias || panel == bias_panel_) return;
    bias_panel_ = panel;
    SetWait<HardEvent::MTE1_MTE2>();
    DataCopy(bias_row_, bias_[static_cast<int64_t>(panel) * tiling_.panel], tiling_.panel);
    SetWait<HardEvent::MTE2_MTE1>();
    SetWait<HardEvent::M_MTE1>();
    DataCopy(bias_table_, bias_row_, DataCopyParams(1, tiling_.panel * kWord / 64, 0, 0));
    SetWait<HardEvent::MTE1_M>();
  }

  __aicore__ inline int32_t InChunk(int32_t side) const {
    return MinOf(tiling_.step_rows / kPlanBlockRows, blocks_[side].left());
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

  // Begins with the tiles' first blocks, for a part of the channels.
  __aicore__ inline void Begin() {
    for (int32_t side = 0; side < 2; ++side) blocks_[side].Begin();
  }

  // Adds the products of one side's chunk, with a part of the channels.
  __aicore__ inline void Multiply(int32_t step, int32_t side, int32_t part, bool first_step) {
    Blocks& blocks = blocks_[side];
    const int32_t count = InChunk(side);
    if (first_step && count > 0) sums_free_.Wait(side);
    for (int32_t i = 0; i < count;) {
      const int32_t point = blocks.Point();
      const LocalTensor<T> weight = weights_.Load(point, part);
      right_free_.Wait(buffer_);
      LoadData(
          right_[buffer_ * kOperand], weight,
          LoadData2DParams(0, weights_.block_elements() / kFractalElements<T>, 1, 0, 0, false, 0));
      weights_.Free(point, part);
      operands_full_.SetWait();
      PipeBarrier<PIPE_M>();
      for (; i < count && blocks.Point() == point; ++i) {
        bool first;
        const int32_t place = blocks.Take(first);
        const LocalTensor<float> sums = sums_[side * kSum + place * kPlanBlockRows * tiling_.panel];
        const LocalTensor<T> rows = left_[step % 2 * kOperand + side * chunk_ + i * block_];
        const bool biased = first && tiling_.has_bias;
        const MmadParams how(kPlanBlockRows, tiling_.panel, tiling_.in_step, 0, false,
                             first && !biased);
        if (biased)
          Mmad(sums, rows, right_[buffer_ * kOperand], bias_table_, how);
        else
          Mmad(sums, rows, right_[buffer_ * kOperand], how);
      }
      right_free_.Set(buffer_);
      buffer_ = 1 - buffer_;
    }
  }

  // Writes a tile's sums, [block, panel / 16, kPlanBlockRows, 16], in the dtype of the output.
  __aicore__ inline void Write(int32_t turn, int32_t side) {
    if (blocks_[side].count() == 0) return;
    sums_full_.SetWait(side);
    const int32_t rows = SumElements(tiling_) / kFractalRows;
    FixpipeParamsV220 how(kFractalRows, rows, rows, rows * 2, false);
    if constexpr (std::is_same_v<T, half>) how.quantPre = F322F16;
    if constexpr (std::is_same_v<T, bfloat16_t>) how.quantPre = F322BF16;
    Fixpipe<T, float, CFG_NZ>(sums_out_[(turn * 2 + side) * SumElements(tiling_)],
                              sums_[side * kSum], how);
    sums_free_.Set(side);
  }

  const SparseConvTiling tiling_;
  const int32_t chunk_, block_;  // elements
  const int32_t words_, couples_;
  LocalTensor<T> rows_;  // [2, 2, chunk]: of two steps, of both sides
  LocalTensor<float> bias_row_;
  sparse_conv::Weights<T> weights_;
  LocalTensor<T> left_, right_;
  LocalTensor<float> sums_, bias_table_;
  GlobalTensor<int64_t> plan_;
  GlobalTensor<T> gathered_;
  GlobalTensor<T> sums_out_;
  GlobalTensor<float> bias_;
  Events<HardEvent::MTE1_MTE2> rows_free_;
  Events<HardEvent::MTE2_MTE1> rows_full_;
  Events<HardEvent::M_MTE1> left_free_, right_free_;
  Events<HardEvent::MTE1_M> operands_full_;
  Events<HardEvent::FIX_M> sums_free_;
  Events<HardEvent::M_FIX> sums_full_;
  Blocks all_blocks_[2][2];  // of this couple and the next one
  Blocks *blocks_ = nullptr, *opened_ = nullptr;
  int32_t opened_record_ = 0, unread_ = 0, buffer_ = 0, bias_panel_ = -1;
};

}  // namespace mxd::kernels::sparse_conv_planned
