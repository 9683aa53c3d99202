// Gradient of a sparse convolution's weight: for every kernel offset k the sum over its pairs (i,
// o) of the outer products of in[i] and grad[o].
//
// A block (one cube core, two vector cores) takes a kernel offset, a panel of input and one of
// output channels, and a slab of the rulebook's tiles at a time, and their pairs in steps of at
// most step_rows. One vector core gathers the input's rows, the other the gradient's, and turns
// them so that a channel's values lie side by side, as the matrix instruction wants its
// contraction; the cube core adds up all steps of the unit in L0C. The host adds up the slabs, in
// their order: results are the same from run to run.
#include <type_traits>

#include "sparse_conv.h"
#include "sparse_conv_tiling.h"

namespace {

constexpr int32_t kStageBytes = 16384;
constexpr int32_t kTilesWindow = 64;
constexpr int32_t kOrderBytes = 64;            // of the workspace for an order
constexpr int32_t kSteps = 3;                  // that the workspace holds
constexpr uint16_t kGathered = 0, kTaken = 1;  // cross-core flags

// An order: the unit, and from bit 48 on the rows of the step, a multiple of 16.
constexpr uint64_t kEnd = ~0ull;
constexpr int32_t kRowsBit = 48;

// Elements of a step in the workspace, of a side: [step_rows / depth, panel, depth].
__aicore__ inline int64_t StepElements(const SparseConvWeightGradTiling& tiling, int32_t side) {
  return static_cast<int64_t>(tiling.step_rows) * tiling.panel[side];
}

template <typename T>
class VectorCore {
 public:
  __aicore__ inline VectorCore(GM_ADDR features, GM_ADDR grad, GM_ADDR pairs, GM_ADDR bounds,
                               GM_ADDR gathered, GM_ADDR orders,
                               const SparseConvWeightGradTiling& tiling)
      : tiling_(tiling),
        side_(GetSubBlockIdx()),
        channels_(tiling.panel[side_]),
        stride_(static_cast<int64_t>(tiling.groups) * tiling.panels[side_] * channels_),
        block_(GetBlockIdx() / 2),
        step_elements_(StepElements(tiling, 0) + StepElements(tiling, 1)) {
    rows_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(side_ == 0 ? features : grad));
    pairs_.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(pairs));
    bounds_.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(bounds));
    gathered_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(gathered) +
                              block_ * kSteps * step_elements_ + side_ * StepElements(tiling, 0));
    orders_.SetGlobalBuffer(
        reinterpret_cast<__gm__ uint64_t*>(orders + block_ * kSteps * kOrderBytes));
    list_rows_ = RoundUp(tiling_.step_rows, kLanes);
    stage_rows_ = Least(
        kStageBytes / (channels_ * static_cast<int32_t>(sizeof(T))) / kFractalRows * kFractalRows,
        tiling_.step_rows);
    Take(stage_, 2 * stage_rows_ * channels_);
    Take(turned_, 2 * stage_rows_ * channels_);
    Take(turn_, RoundUp(stage_rows_ * channels_, kLanes));
    Take(bounds_window_, kTilesWindow * kBlockBytes / sizeof(int64_t));
    Take(step_pairs_, 2 * list_rows_ * 2);
    Take(lists_, 2 * list_rows_);
    Take(order_, kSteps * kOrderBytes / sizeof(uint64_t));

    stage_clear_.Init(pipe_, 1);
    stage_full_.Init(pipe_, 2);
    turned_full_.Init(pipe_, 2);
    turned_free_.Init(pipe_, 2);
    pairs_free_.Init(pipe_, 2);
    pairs_full_.Init(pipe_, 1);
    list_full_.Init(pipe_, 2);
    list_free_.Init(pipe_, 2);
    order_free_.Init(pipe_, kSteps);
    s_to_mte2_.Init(pipe_, 1);
    mte2_to_s_.Init(pipe_, 1);
    s_to_mte3_.Init(pipe_, 1);
    v_to_s_.Init(pipe_, 1);
  }

  __aicore__ inline void Run() {
    turned_free_.RaiseAll();
    list_free_.RaiseAll();
    order_free_.RaiseAll();
    SetUp();
    pairs_free_.RaiseAll();

    unit_ = block_ - static_cast<int64_t>(GetBlockNum());
    int32_t step = 0;
    Prepare(0);
    for (; steps_[step % 2].pieces > 0; ++step) {
      Prepare(step + 1);
      if (step >= kSteps) CrossCoreWaitFlag(kTaken);
      Gather(step);
      SendOrder(step);
    }
    if (step >= kSteps) CrossCoreWaitFlag(kTaken);
    SendOrder(step);
    for (int32_t left = step < kSteps ? 0 : step - kSteps + 1; left < step; ++left)
      CrossCoreWaitFlag(kTaken);

    turned_free_.AwaitAll();
    list_free_.AwaitAll();
    order_free_.AwaitAll();
    pairs_free_.AwaitAll();
  }

 private:
  static constexpr int32_t kDepth = kBlockBytes / sizeof(T);  // rows of a fractal's column
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>;
  struct Piece {
    int32_t slot, rows;
  };
  // Pairs of a unit: at most step_rows, every tile's rounded up to 4.
  struct Step {
    int64_t unit;
    int32_t pieces, rows;
    Piece piece[kTilesWindow];
  };

  template <typename U>
  __aicore__ inline void Take(LocalTensor<U>& tensor, int32_t count) {
    TBuf<TPosition::VECCALC> buffer;
    pipe_.InitBuffer(buffer, RoundUp(count * sizeof(U), kBlockBytes));
    tensor = buffer.Get<U>();
  }

  // turn_: where in a stage of rows each element of the turned stage lies.
  __aicore__ inline void SetUp() {
    Duplicate(step_pairs_, 0, 4 * list_rows_);
    const LocalTensor<int32_t> turn = turn_.template ReinterpretCast<int32_t>();
    // The first channel's depth rows, then every other channel's from them, then the other rows'.
    CreateVecIndex(turn, 0, kDepth);
    PipeBarrier<PIPE_V>();
    Muls(turn, turn, channels_ * static_cast<int32_t>(sizeof(T)), kDepth);
    const int32_t column = kDepth * channels_;
    for (int32_t have = kDepth; have < column; have *= 2) {
      PipeBarrier<PIPE_V>();
      Adds(turn[have], turn, have / kDepth * static_cast<int32_t>(sizeof(T)),
           Least(have, column - have));
    }
    for (int32_t have = column; have < stage_rows_ * channels_; have += column) {
      PipeBarrier<PIPE_V>();
      Adds(turn[have], turn, have * static_cast<int32_t>(sizeof(T)), column);
    }
    Duplicate(order_.template ReinterpretCast<int32_t>(), 0, kSteps * kOrderBytes / 4);
    v_to_s_.Pass();
  }

  // The pairs of the unit's offset in the tile.
  __aicore__ inline int64_t Bound(int32_t tile, int32_t which) {
    if (window_ < 0 || tile < window_ || tile >= window_ + kTilesWindow) {
      window_ = tile;
      const int64_t stride = (tiling_.volume + 1) * static_cast<int64_t>(sizeof(int64_t));
      s_to_mte2_.Pass();
      DataCopyPad(bounds_window_.ReinterpretCast<int32_t>(),
                  bounds_[(tile * static_cast<int64_t>(tiling_.volume + 1) + offset_) * 2],
                  DataCopyExtParams(Least(kTilesWindow, tile_end_ - tile), 16, stride - 16, 0, 0),
                  DataCopyPadExtParams<int32_t>(true, 0, 4, 0));
      mte2_to_s_.Pass();
    }
    return bounds_window_.GetValue((tile - window_) * (kBlockBytes / sizeof(int64_t)) + which);
  }

  // Begins the next unit.
  __aicore__ inline bool Open() {
    unit_ += GetBlockNum();
    const int64_t panels =
        static_cast<int64_t>(tiling_.groups) * tiling_.panels[0] * tiling_.panels[1];
    if (unit_ >= panels * tiling_.volume * tiling_.slabs) return false;
    const int32_t slab = unit_ % tiling_.slabs;
    offset_ = unit_ / tiling_.slabs % tiling_.volume;
    tile_ = static_cast<int32_t>(static_cast<int64_t>(slab) * tiling_.tiles / tiling_.slabs);
    tile_end_ =
        static_cast<int32_t>(static_cast<int64_t>(slab + 1) * tiling_.tiles / tiling_.slabs);
    row_ = 0;
    window_ = -1;
    return true;
  }

  // Fills step `index` with the next pairs: the rows of this core's side to lists_.
  __aicore__ inline void Prepare(int32_t index) {
    Step& step = steps_[index % 2];
    step.pieces = step.rows = 0;
    list_free_.Await(index % 2);
    pairs_free_.Await(index % 2);
    const LocalTensor<int32_t> pairs = step_pairs_[index % 2 * 2 * list_rows_];
    // Units without pairs have no step.
    while (step.pieces == 0) {
      if (tile_ == tile_end_ && !Open()) break;
      step.unit = unit_;
      while (tile_ < tile_end_ && step.rows < tiling_.step_rows && step.pieces < kTilesWindow) {
        const int64_t begin = Bound(tile_, 0) + row_;
        const int32_t left = static_cast<int32_t>(Bound(tile_, 1) - begin);
        const int32_t rows = Least(left, tiling_.step_rows - step.rows);
        if (rows > 0) {
          step.piece[step.pieces].slot = step.rows;
          step.piece[step.pieces++].rows = rows;
          LoadPairs(pairs[step.rows * 2], pairs_, begin, rows);
          step.rows += RoundUp(rows, 4);
          row_ += rows;
        }
        if (rows == left) {
          ++tile_;
          row_ = 0;
        }
      }
    }
    pairs_full_.Pass();
    if (step.pieces > 0) Split(pairs, side_, lists_[index % 2 * list_rows_], list_rows_);
    pairs_free_.Raise(index % 2);
    if (step.pieces > 0)
      list_full_.Raise(index % 2);
    else
      list_free_.Raise(index % 2);
  }

  // Copies the step's rows, turned, to the workspace.
  __aicore__ inline void Gather(int32_t index) {
    const Step& step = steps_[index % 2];
    const int64_t panel = step.unit / tiling_.slabs / tiling_.volume;
    const int64_t group = panel / (tiling_.panels[0] * tiling_.panels[1]);
    const int64_t part =
        side_ == 0 ? panel / tiling_.panels[1] % tiling_.panels[0] : panel % tiling_.panels[1];
    const int64_t first_column = (group * tiling_.panels[side_] + part) * channels_;
    const int32_t blocks = channels_ * sizeof(T) / kBlockBytes;
    const int32_t stride_blocks = static_cast<int32_t>(stride_ * sizeof(T) / kBlockBytes);
    const int32_t farthest = 0xffff / stride_blocks;
    list_full_.Await(index % 2);
    Reader<int32_t> list(lists_[index % 2 * list_rows_]);
    int32_t p = 0;
    for (int32_t first = 0; first < step.rows; first += stage_rows_) {
      const int32_t end = Least(step.rows, first + stage_rows_);
      const int32_t rows = RoundUp(end - first, kFractalRows);
      const LocalTensor<T> stage = stage_[buffer_ * stage_rows_ * channels_];
      // Rows that no pair fills count nothing.
      PipeBarrier<PIPE_V>();
      Duplicate(stage.template ReinterpretCast<int32_t>(), 0, rows * channels_ * sizeof(T) / 4);
      stage_clear_.Pass();
      for (; p < step.pieces; ++p) {
        const Piece& piece = step.piece[p];
        const int32_t last = Least(piece.slot + piece.rows, end);
        int32_t slot = piece.slot < first ? first : piece.slot;
        int32_t row = slot < last ? list.Get(slot) : 0;
        while (slot < last) {
          const int32_t from = row;
          int32_t run = 1, gap = 1, next = slot + 1 < last ? list.Get(slot + 1) : 0;
          if (next > row && next - row <= farthest && slot + 1 < last) {
            gap = next - row;
            do {
              row = next;
              next = slot + ++run < last ? list.Get(slot + run) : 0;
            } while (slot + run < last && next - row == gap);
          }
          row = next;
          DataCopy(stage[(slot - first) * channels_], rows_[from * stride_ + first_column],
                   DataCopyParams(run, blocks, gap * stride_blocks - blocks, 0));
          slot += run;
        }
        if (piece.slot + piece.rows > end) break;
      }
      stage_full_.Pass(buffer_);
      turned_free_.Await(buffer_);
      const LocalTensor<T> turned = turned_[buffer_ * stage_rows_ * channels_];
      AscendC::Gather(turned.template ReinterpretCast<Bits>(),
                      stage.template ReinterpretCast<Bits>(), turn_, 0,
                      static_cast<uint32_t>(rows * channels_));
      turned_full_.Pass(buffer_);
      DataCopy(gathered_[index % kSteps * step_elements_ + static_cast<int64_t>(first) * channels_],
               turned, rows * channels_);
      turned_free_.Raise(buffer_);
      buffer_ = 1 - buffer_;
    }
    list_free_.Raise(index % 2);
  }

  // Tells the cube core what step `index` holds, and that it is there.
  __aicore__ inline void SendOrder(int32_t index) {
    const Step& step = steps_[index % 2];
    if (side_ == 0) {
      const int32_t words = kOrderBytes / sizeof(uint64_t), at = index % kSteps;
      order_free_.Await(at);
      order_.SetValue(at * words, step.pieces == 0
                                      ? kEnd
                                      : static_cast<uint64_t>(step.unit) |
                                            static_cast<uint64_t>(RoundUp(step.rows, kFractalRows))
                                                << kRowsBit);
      s_to_mte3_.Pass();
      DataCopy(orders_[at * words], order_[at * words], words);
      order_free_.Raise(at);
    }
    CrossCoreSetFlag<2, PIPE_MTE3>(kGathered);
  }

  const SparseConvWeightGradTiling tiling_;
  const int32_t side_, channels_;
  const int64_t stride_, block_, step_elements_;
  TPipe pipe_;
  GlobalTensor<T> rows_, gathered_;
  GlobalTensor<int32_t> pairs_, bounds_;
  GlobalTensor<uint64_t> orders_;
  LocalTensor<T> stage_, turned_;  // [2, rows, channels], [2, rows / depth, channels, depth]
  LocalTensor<uint32_t> turn_;
  LocalTensor<int64_t> bounds_window_;
  LocalTensor<int32_t> step_pairs_, lists_;
  LocalTensor<uint64_t> order_;

  Flags<HardEvent::V_MTE2> stage_clear_, pairs_free_;
  Flags<HardEvent::MTE2_V> stage_full_, pairs_full_;
  Flags<HardEvent::V_MTE3> turned_full_;
  Flags<HardEvent::MTE3_V> turned_free_;
  Flags<HardEvent::V_S> list_full_, v_to_s_;
  Flags<HardEvent::S_V> list_free_;
  Flags<HardEvent::MTE3_S> order_free_;
  Flags<HardEvent::S_MTE2> s_to_mte2_;
  Flags<HardEvent::MTE2_S> mte2_to_s_;
  Flags<HardEvent::S_MTE3> s_to_mte3_;

  int64_t unit_ = 0;
  int32_t offset_ = 0, tile_ = 0, tile_end_ = 0, row_ = 0, window_ = -1;
  int32_t list_rows_ = 0, stage_rows_ = 0, buffer_ = 0;
  Step steps_[2];
};

template <typename T>
class CubeCore {
 public:
  __aicore__ inline CubeCore(GM_ADDR gathered, GM_ADDR orders, GM_ADDR parts,
                             const SparseConvWeightGradTiling& tiling)
      : tiling_(tiling), step_elements_(StepElements(tiling, 0) + StepElements(tiling, 1)) {
    const int64_t block = GetBlockIdx();
    gathered_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(gathered) +
                              block * kSteps * step_elements_);
    orders_.SetGlobalBuffer(
        reinterpret_cast<__gm__ uint64_t*>(orders + block * kSteps * kOrderBytes));
    parts_.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(parts));
    TBuf<TPosition::A1> l1;
    TBuf<TPosition::A2> l0a;
    TBuf<TPosition::B2> l0b;
    TBuf<TPosition::CO1> l0c;
    pipe_.InitBuffer(l1, 2 * step_elements_ * sizeof(T));
    pipe_.InitBuffer(l0a, 2 * kOperandBytes);
    pipe_.InitBuffer(l0b, 2 * kOperandBytes);
    pipe_.InitBuffer(l0c, 2 * kSumBytes);
    rows_ = l1.Get<T>();
    left_ = l0a.Get<T>();
    right_ = l0b.Get<T>();
    sums_ = l0c.Get<float>();
    rows_free_.Init(pipe_, 2);
    rows_full_.Init(pipe_, 2);
    operands_free_.Init(pipe_, 2);
    operands_full_.Init(pipe_, 2);
    sums_free_.Init(pipe_, 2);
    sums_full_.Init(pipe_, 2);
    s_to_mte2_.Init(pipe_, 1);
  }

  __aicore__ inline void Run() {
    SetHF32Mode(false);  // plain fp32, whatever the kernel before left set
    rows_free_.RaiseAll();
    operands_free_.RaiseAll();
    sums_free_.RaiseAll();
    for (int32_t step = 0;; ++step) {
      CrossCoreWaitFlag(kGathered);
      const GlobalTensor<uint64_t> order = orders_[step % kSteps * kOrderBytes / sizeof(uint64_t)];
      DataCacheCleanAndInvalid<uint64_t, CacheLine::SINGLE_CACHE_LINE, DcciDst::CACHELINE_OUT>(
          order);
      const uint64_t word = order.GetValue(0);
      const int64_t unit =
          word == kEnd ? -1 : static_cast<int64_t>(word & ((1ull << kRowsBit) - 1));
      if (unit != unit_ && unit_ >= 0) Write();
      if (unit < 0) break;
      if (unit != unit_) sums_free_.Await(sum_);
      Multiply(step, static_cast<int32_t>(word >> kRowsBit), unit != unit_);
      unit_ = unit;
    }
    rows_free_.AwaitAll();
    operands_free_.AwaitAll();
    sums_free_.AwaitAll();
  }

 private:
  static constexpr int32_t kOperandBytes = 32768, kSumBytes = 65536;
  static constexpr int32_t kDepth = kBlockBytes / sizeof(T);      // rows of a fractal's column
  static constexpr int32_t kFractal = kFractalBytes / sizeof(T);  // elements of a fractal

  // Adds the products of a step's `rows` pairs.
  __aicore__ inline void Multiply(int32_t step, int32_t rows, bool first) {
    const int32_t buffer = step % 2;
    const LocalTensor<T> in = rows_[buffer * step_elements_], grad = in[StepElements(tiling_, 0)];
    const GlobalTensor<T> from = gathered_[step % kSteps * step_elements_];
    s_to_mte2_.Pass();  // the next order here is written when this step is taken
    rows_free_.Await(buffer);
    DataCopy(in, from, rows * tiling_.panel[0]);
    DataCopy(grad, from[StepElements(tiling_, 0)], rows * tiling_.panel[1]);
    CrossCoreSetFlag<2, PIPE_MTE2>(kTaken);
    rows_full_.Pass(buffer);
    const int32_t high = tiling_.panel[0] / kFractalRows, wide = tiling_.panel[1] / kFractalRows;
    const int32_t most = kOperandBytes / sizeof(T) / 128;
    for (int32_t row = 0; row < rows; row += most) {
      const int32_t count = Least(most, rows - row), deep = count / kDepth;
      const LocalTensor<T> left = left_[operand_ * (kOperandBytes / sizeof(T))];
      const LocalTensor<T> right = right_[operand_ * (kOperandBytes / sizeof(T))];
      operands_free_.Await(operand_);
      const int32_t start = row / kDepth * high;
      if (high < deep) {
        for (int32_t i = 0; i < high; ++i)
          LoadData(left[i * deep * kFractal], in,
                   LoadData2DParams(start + i, deep, high, 0, 0, false, 0));
      } else {
        for (int32_t i = 0; i < deep; ++i)
          LoadData(left[i * kFractal], in,
                   LoadData2DParams(start + i * high, high, 1, 0, deep - 1, false, 0));
      }
      LoadData(right, grad, LoadData2DParams(row / kDepth * wide, deep * wide, 1, 0, 0, false, 0));
      operands_full_.Pass(operand_);
      const bool starts = first && row == 0;
      if (!starts) PipeBarrier<PIPE_M>();
      Mmad(sums_[sum_ * (kSumBytes / sizeof(float))], left, right,
           MmadParams(tiling_.panel[0], tiling_.panel[1], count, 0, false, starts));
      operands_free_.Raise(operand_);
      operand_ = 1 - operand_;
    }
    rows_free_.Raise(buffer);
  }

  // Writes the sums of the unit.
  __aicore__ inline void Write() {
    sums_full_.Pass(sum_);
    Fixpipe<float, float, CFG_ROW_MAJOR>(
        parts_[unit_ * tiling_.panel[0] * tiling_.panel[1]],
        sums_[sum_ * (kSumBytes / sizeof(float))],
        FixpipeParamsV220(tiling_.panel[1], tiling_.panel[0], tiling_.panel[0], tiling_.panel[1],
                          false));
    sums_free_.Raise(sum_);
    sum_ = 1 - sum_;
  }

  const SparseConvWeightGradTiling tiling_;
  const int64_t step_elements_;
  TPipe pipe_;
  GlobalTensor<T> gathered_;
  GlobalTensor<uint64_t> orders_;
  GlobalTensor<float> parts_;
  LocalTensor<T> rows_, left_, right_;
  LocalTensor<float> sums_;
  Flags<HardEvent::MTE1_MTE2> rows_free_;
  Flags<HardEvent::MTE2_MTE1> rows_full_;
  Flags<HardEvent::M_MTE1> operands_free_;
  Flags<HardEvent::MTE1_M> operands_full_;
  Flags<HardEvent::FIX_M> sums_free_;
  Flags<HardEvent::M_FIX> sums_full_;
  Flags<HardEvent::S_MTE2> s_to_mte2_;
  int64_t unit_ = -1;
  int32_t operand_ = 0, sum_ = 0;
};

template <typename T>
__aicore__ inline void Differentiate(GM_ADDR features, GM_ADDR grad, GM_ADDR pairs, GM_ADDR bounds,
                                     GM_ADDR gathered, GM_ADDR orders, GM_ADDR parts,
                                     const SparseConvWeightGradTiling& tiling) {
  if ASCEND_IS_AIC {
    CubeCore<T>(gathered, orders, parts, tiling).Run();
  }
  if ASCEND_IS_AIV {
    VectorCore<T>(features, grad, pairs, bounds, gathered, orders, tiling).Run();
  }
}

}  // namespace

extern "C" __global__ __aicore__ void sparse_conv_weight_grad_float(
    GM_ADDR features, GM_ADDR grad, GM_ADDR pairs, GM_ADDR bounds, GM_ADDR gathered, GM_ADDR orders,
    GM_ADDR parts, SparseConvWeightGradTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  Differentiate<float>(features, grad, pairs, bounds, gathered, orders, parts, tiling);
}

extern "C" __global__ __aicore__ void sparse_conv_weight_grad_half(
    GM_ADDR features, GM_ADDR grad, GM_ADDR pairs, GM_ADDR bounds, GM_ADDR gathered, GM_ADDR orders,
    GM_ADDR parts, SparseConvWeightGradTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  Differentiate<half>(features, grad, pairs, bounds, gathered, orders, parts, tiling);
}

extern "C" __global__ __aicore__ void sparse_conv_weight_grad_bfloat16(
    GM_ADDR features, GM_ADDR grad, GM_ADDR pairs, GM_ADDR bounds, GM_ADDR gathered, GM_ADDR orders,
    GM_ADDR parts, SparseConvWeightGradTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  Differentiate<bfloat16_t>(features, grad, pairs, bounds, gathered, orders, parts, tiling);
}
