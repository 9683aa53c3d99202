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
        chunks_(RowChunks(tiling)),
        rows_(Take<T, TPosition::A1>(pipe, chunks_ * chunk_)),
        bias_row_(Take<float, TPosition::A1>(pipe, BiasElements(tiling))),
        weights_(pipe, weight,
                 Take<T, TPosition::A1>(
                     pipe, (kL1Bytes - BiasElements(tiling) * kWord) / kSize - chunks_ * chunk_),
                 tiling),
        left_(Take<T, TPosition::A2>(pipe, kL0Bytes / sizeof(T))),
        right_(Take<T, TPosition::B2>(pipe, kL0Bytes / sizeof(T))),
        sums_(Take<float, TPosition::CO1>(pipe, kL0cBytes / sizeof(float))),
        bias_table_(Take<float, TPosition::C2>(pipe, kMaxPanel)) {
    const int64_t core_bytes = static_cast<int64_t>(GetBlockIdx()) * sizeof(T);
    Bind(bias_, bias, plan_, plan, gathered_, gathered + core_bytes * kSteps * 2 * chunk_,
         sums_out_, sums + core_bytes * 4 * SumElements(tiling));
    rows_free_.Init(pipe, chunks_);
    rows_full_.Init(pipe, chunks_);
    left_free_.Init(pipe, 2);
    right_free_.Init(pipe, 2);
    operands_full_.Init(pipe, 1);
    sums_free_.Init(pipe, 2 * Blocks::kQuarters);
    sums_full_.Init(pipe, 2 * Blocks::kQuarters);
  }

  __aicore__ inline void Process() {
    int32_t step = 0;
    SetHF32Mode(false);  // plain fp32, whatever the kernel before left set
    weights_.Begin();
    rows_free_.SetAll();
    left_free_.SetAll();
    right_free_.SetAll();
    sums_free_.SetAll();
    Units unit(tiling_, GetBlockIdx());
    Open(unit, 0);
    Read(2 * words_);
    for (int32_t turn = 0; unit.IsThere(); turn = 1 - turn) {
      const Units next = unit.Next();
      weights_.Open(unit.panel());
      LoadBias(unit.panel());
      blocks_ = all_blocks_[turn];
      const int32_t part_steps = Steps(all_blocks_[turn], tiling_);
      const int32_t steps = part_steps * Parts(tiling_);
      Open(next, 1 - turn);
      for (int32_t i = 0; i < steps; ++i) {
        if (i % part_steps == 0) Begin();
        Load(step);
        const int32_t part = i / part_steps;
        Multiply(step, turn, part);
        if (part == Parts(tiling_) - 1) Write(turn);
        left_free_.Set(step++ % 2);
        Read((i + 1) * 2 * words_ / steps - i * 2 * words_ / steps);
      }
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
  static constexpr int32_t kSize = static_cast<int32_t>(sizeof(T));
  static constexpr int32_t kOperand = kOperandBytes / kSize;
  static constexpr int32_t kSum = kSumBytes / static_cast<int32_t>(sizeof(float));

  __aicore__ static inline int32_t BiasElements(const SparseConvTiling& tiling) {
    return tiling.has_bias ? kMaxPanel : 0;
  }
  // Chunks of rows in L1: two steps at least, one chunk more where all weights stay beside them.
  __aicore__ static inline int32_t RowChunks(const SparseConvTiling& tiling) {
    const int32_t weights = tiling.volume * tiling.in_channels * tiling.panel * kSize;
    const int32_t left = kL1Bytes - BiasElements(tiling) * kWord - weights;
    return left >= 5 * ChunkElements(tiling) * kSize ? 5 : 4;
  }

  // Begins to read which blocks a couple of tiles has.
  __aicore__ inline void Open(const Units& unit, int32_t turn) {
    unread_ = 2 * words_;
    opened_ = all_blocks_[turn];
    opened_record_ = unit.IsThere() ? 2 * unit.couple() : tiling_.tiles;
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
    const GlobalTensor<T> from = gathered_[step % kSteps * 2 * chunk_];
    CrossCoreWaitFlag(kGathered);
    for (int32_t side = 0; side < 2; ++side) {
      const int32_t blocks = InChunk(side), place = (2 * step + side) % chunks_;
      if (blocks == 0) continue;
      rows_free_.Wait(place);
      DataCopy(rows_[place * chunk_], from[side * chunk_], blocks * block_);
      rows_full_.Set(place);
    }
    CrossCoreSetFlag<2, PIPE_MTE2>(kTaken);
    left_free_.Wait(buffer);
    for (int32_t side = 0; side < 2; ++side) {
      const int32_t blocks = InChunk(side), place = (2 * step + side) % chunks_;
      if (blocks == 0) continue;
      rows_full_.Wait(place);
      LoadData(left_[buffer * kOperand + side * chunk_], rows_[place * chunk_],
               LoadData2DParams(0, blocks * block_ / kFractalElements<T>, 1, 0, 0, false, 0));
      rows_free_.Set(place);
    }
  }

  // Begins with the tiles' first blocks, for a part of the channels.
  __aicore__ inline void Begin() {
    for (int32_t side = 0; side < 2; ++side) blocks_[side].Begin();
  }

  // Adds the products of a step, with a part of the channels: of both sides' blocks of a kernel
  // point and section, then those of the next.
  __aicore__ inline void Multiply(int32_t step, int32_t turn, int32_t part) {
    int32_t done[2] = {0, 0};
    const int32_t count[2] = {InChunk(0), InChunk(1)};
    while (done[0] < count[0] || done[1] < count[1]) {
      int32_t range = tiling_.volume * kPlanSections;
      for (int32_t side = 0; side < 2; ++side)
        if (done[side] < count[side]) range = MinOf(range, blocks_[side].Range());
      const int32_t point = range % tiling_.volume;
      const LocalTensor<T> weight = weights_.Load(point, part);
      right_free_.Wait(buffer_);
      LoadData(
          right_[buffer_ * kOperand], weight,
          LoadData2DParams(0, weights_.block_elements() / kFractalElements<T>, 1, 0, 0, false, 0));
      weights_.Free(point, part);
      operands_full_.SetWait();
      PipeBarrier<PIPE_M>();
      for (int32_t side = 0; side < 2; ++side)
        for (; done[side] < count[side] && blocks_[side].Range() == range; ++done[side])
          MultiplyBlock(left_[step % 2 * kOperand + side * chunk_ + done[side] * block_], turn,
                        side);
      right_free_.Set(buffer_);
      buffer_ = 1 - buffer_;
    }
  }
  // Adds the products of one side's next block.
  __aicore__ inline void MultiplyBlock(const LocalTensor<T>& rows, int32_t turn, int32_t side) {
    bool first;
    const int32_t place = blocks_[side].Take(first), quarter = place / Blocks::kInQuarter;
    const int32_t room = Room(turn, side, quarter);
    if ((held_ >> room & 1) == 0) sums_free_.Wait(room);
    held_ |= 1u << room;
    const LocalTensor<float> sums =
        Sums(room)[place % Blocks::kInQuarter * kPlanBlockRows * tiling_.panel];
    const bool biased = first && tiling_.has_bias;
    const MmadParams how(kPlanBlockRows, tiling_.panel, tiling_.in_step, 0, false,
                         first && !biased);
    if (biased)
      Mmad(sums, rows, right_[buffer_ * kOperand], bias_table_, how);
    else
      Mmad(sums, rows, right_[buffer_ * kOperand], how);
  }

  // Where in L0C a quarter of a tile's sums is. The first rows of a tile have the most kernel
  // points, and often the first and the last one: they take turns with the last rows, whose sums
  // are written long before a tile ends.
  __aicore__ static inline int32_t Room(int32_t turn, int32_t side, int32_t quarter) {
    return side * Blocks::kQuarters + (turn == 0 ? quarter : Blocks::kQuarters - 1 - quarter);
  }
  __aicore__ inline LocalTensor<float> Sums(int32_t room) const {
    return sums_[room * (kSum / Blocks::kQuarters)];
  }

  // Writes the quarters of the tiles' sums that are done, [block, panel / 16, kPlanBlockRows, 16],
  // in the dtype of the output; those first whose rooms the next tiles need first.
  __aicore__ inline void Write(int32_t turn) {
    const int32_t count = SumElements(tiling_) / Blocks::kQuarters, rows = count / kFractalRows;
    FixpipeParamsV220 how(kFractalRows, rows, rows, rows * 2, false);
    if constexpr (std::is_same_v<T, half>) how.quantPre = F322F16;
    if constexpr (std::is_same_v<T, bfloat16_t>) how.quantPre = F322BF16;
    for (int32_t i = 2 * Blocks::kQuarters - 1; i >= 0; --i) {
      const int32_t side = i % 2, quarter = i / 2, room = Room(turn, side, quarter);
      if ((held_ >> room & 1) == 0 || !blocks_[side].IsDone(quarter)) continue;
      held_ &= ~(1u << room);
      sums_full_.SetWait(room);
      Fixpipe<T, float, CFG_NZ>(
          sums_out_[(turn * 2 + side) * SumElements(tiling_) + quarter * count], Sums(room), how);
      sums_free_.Set(room);
    }
  }

  const SparseConvTiling tiling_;
  const int32_t chunk_, block_;  // elements
  const int32_t words_, chunks_;
  LocalTensor<T> rows_;  // [chunks_, chunk]: of steps and sides
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
  uint32_t held_ = 0;  // the quarters in L0C that have sums, a bit each
};

}  // namespace mxd::kernels::sparse_conv_planned
