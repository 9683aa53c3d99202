// Sparse convolution: out[o] = bias + sum over the pairs (i, o) of every kernel offset k of
// in[i] @ weight[k].
//
// A block (one cube core, two vector cores) takes a tile of the rulebook's output rows and a panel
// of output columns at a time, and the tile's pairs in steps of at most step_rows rows:
//   1. the vector cores gather the step's input rows, half of every offset's each, into a workspace
//      (it stays in L2);
//   2. the cube core multiplies every offset's rows by its weight, which stays in L1 where it fits,
//      and writes the products, fp32, to a second workspace, each vector core's columns apart;
//   3. the vector cores add the products to the tile's rows, which lie in their UB in fp32.
// Step s is gathered while the products of step s - 6 are added; both workspaces hold seven steps.
//
// An output row takes its products in the order of the rulebook, whatever the number of blocks:
// results are the same from run to run. Rows are moved and added in runs of equal distance, one
// instruction for each: the 190,000 pairs of a LiDAR sweep's sorted voxels, their centres aside,
// are 72,000 runs, and an instruction costs 14 to 32 cycles but a further row of it 1 to 4.
#include "sparse_conv.h"

#include "sparse_conv_tiling.h"

namespace {

constexpr int32_t kBoundsWindow = 128;
constexpr int32_t kWindowElements = kBoundsWindow + 4;
constexpr int32_t kOrderBytes = 192;   // of the workspace for an order
constexpr int32_t kMaxPieces = 32;     // of a step
constexpr int32_t kLead = 6;           // steps from a step's gathering to its products' addition
constexpr int32_t kSteps = kLead + 1;  // that the workspaces hold
constexpr int32_t kLists = kLead + 3;  // between their preparation and their end
constexpr int32_t kMaxRunRows = 255;
constexpr int32_t kSortable = 1 << 23;  // rows plus this, read as floats, sort as they do
constexpr int32_t kParts = 4;           // in which a tile's rows are written
constexpr uint16_t kGathered = 0, kMultiplied = 1;  // cross-core flags

// An order tells the cube core what a step holds: the number of pieces and, from bit 8 on, the
// panel; then every piece as offset * 2^16 + rows. A piece's rows begin at a multiple of 16.
constexpr uint32_t kEnd = 0xffffffffu;

// The workspaces of a block, and how the vector cores share a panel's columns.
struct Layout {
  int32_t width[2];
  int64_t gathered, products;  // elements of one step

  __aicore__ inline explicit Layout(const SparseConvTiling& tiling) {
    width[0] = RoundUp((tiling.panel + 1) / 2, kFractalRows);
    width[1] = tiling.panel - width[0];
    gathered = static_cast<int64_t>(tiling.step_rows) * tiling.in_channels;
    products = static_cast<int64_t>(tiling.step_rows) * tiling.panel;
  }
};

template <typename T>
class VectorCore {
 public:
  __aicore__ inline VectorCore(GM_ADDR features, GM_ADDR bias, GM_ADDR pairs, GM_ADDR bounds,
                               GM_ADDR gathered, GM_ADDR products, GM_ADDR orders, GM_ADDR out,
                               const SparseConvTiling& tiling)
      : tiling_(tiling),
        layout_(tiling),
        side_(GetSubBlockIdx()),
        width_(layout_.width[side_]),
        block_(GetBlockIdx() / 2) {
    features_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(features));
    bias_.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(bias));
    pairs_.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(pairs));
    bounds_.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(bounds));
    gathered_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(gathered) +
                              block_ * kSteps * layout_.gathered);
    products_.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(products) +
                              block_ * kSteps * layout_.products +
                              side_ * tiling_.step_rows * layout_.width[0]);
    orders_.SetGlobalBuffer(
        reinterpret_cast<__gm__ uint32_t*>(orders + block_ * kSteps * kOrderBytes));
    out_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(out));

    const int32_t rows = RoundUp(tiling_.step_rows, kLanes);
    const int32_t columns = layout_.width[0];
    const int32_t stage_bytes = columns > 32 ? 4096 : 12288;
    const int32_t product_bytes = columns > 32 ? 4096 : 8192;
    row_blocks_ = tiling_.in_channels * sizeof(T) / kBlockBytes;
    stage_rows_ = stage_bytes / (row_blocks_ * kBlockBytes);
    stage_elements_ = stage_bytes / sizeof(T);
    product_stages_ = columns > 32 ? 2 : 3;
    product_elements_ = product_bytes / sizeof(float);
    Take(sums_, kTileRows * columns);
    Take(gather_stage_, 2 * stage_elements_);
    Take(fractal_stage_, 2 * stage_elements_);
    Take(to_fractals_, stage_bytes / kBlockBytes);
    Take(product_stage_, product_stages_ * product_elements_);
    Take(product_rows_, product_elements_);
    Take(to_rows_, product_bytes / kBlockBytes);
    Take(bias_row_, kLanes);
    Take(head_, kLanes);
    Take(bounds_windows_, 3 * kWindowElements);
    Take(step_pairs_, 2 * rows * 2);
    Take(in_, kLists * rows);
    Take(outs_, rows);
    Take(place_, kLists * rows);
    Take(order_words_, kSteps * kOrderBytes / sizeof(uint32_t));
    Take(tile_pairs_, kTileRows * 2);
    Take(tile_rows_, kTileRows);
    Take(distance_, kBlockBytes / sizeof(float));
    Take(keys_, kTileRows);
    Take(places_, kTileRows);
    Take(work_, 4 * kTileRows);
    Take(above_, kLanes);
    Take(lane_, kLanes);
    Take(repeat_, kTileRows / kLanes * kBlockWords);
    list_rows_ = rows;

    gather_free_.Init(pipe_, 2);
    gather_full_.Init(pipe_, 2);
    fractal_free_.Init(pipe_, 2);
    product_free_.Init(pipe_, product_stages_);
    product_full_.Init(pipe_, product_stages_);
    pairs_free_.Init(pipe_, 2);
    list_full_.Init(pipe_, 3);
    order_free_.Init(pipe_, kSteps);
    sums_free_.Init(pipe_, kParts);
    bounds_full_.Init(pipe_, 3);
    mte2_to_s_.Init(pipe_, 1);
    mte2_to_v_.Init(pipe_, 1);
    mte2_to_mte3_.Init(pipe_, 1);
    s_to_mte2_.Init(pipe_, 1);
    s_to_mte3_.Init(pipe_, 1);
    s_to_v_.Init(pipe_, 1);
    tile_pairs_free_.Init(pipe_, 1);
    order_known_.Init(pipe_, 1);
    v_to_mte3_.Init(pipe_, 1);
    v_to_s_.Init(pipe_, 1);
  }

  __aicore__ inline void Run() {
    product_free_.RaiseAll();
    order_free_.RaiseAll();
    sums_free_.RaiseAll();
    fractal_free_.RaiseAll();
    SetUp();
    Share();
    pairs_free_.RaiseAll();
    gather_free_.RaiseAll();

    tile_pairs_free_.Raise();
    if (unit_ < unit_end_) LoadBounds(unit_ % tiling_.tiles, 0, unit_ % 3);
    Look(unit_);
    offset_ = tiling_.volume;
    int32_t step = 0;
    int32_t prepared = 0;
    for (bool more = true; more || step < prepared; ++step) {
      for (; more && prepared < step + 3; prepared += more) more = Prepare(prepared);
      if (step == prepared) break;
      if (step >= kLead) AddProducts(step - kLead);
      Gather(step);
      SendOrder(step);
    }
    for (int32_t left = step > kLead ? step - kLead : 0; left < step; ++left) AddProducts(left);
    SendOrder(step);

    gather_free_.AwaitAll();
    fractal_free_.AwaitAll();
    product_free_.AwaitAll();
    order_free_.AwaitAll();
    sums_free_.AwaitAll();
    pairs_free_.AwaitAll();
    tile_pairs_free_.Await();
  }

 private:
  struct Piece {
    int32_t offset, slot, rows, first;  // first: of the pairs of the offset and the tile
  };
  struct Tile {
    int64_t index,
        order;  // order: the first of the pairs that name its rows, -1 where they are in order
    int32_t rows;
    int32_t
        whole;  // the offset that pairs every row, -1 where there is none or rows are not in order
    int32_t window, first;  // the window that holds its bounds, and from which offset on
  };
  // A part of a tile's pairs: at most step_rows rows, every piece's rounded up to 16.
  struct Step {
    Tile tile;
    int32_t panel;
    int32_t pieces;  // -1 after the last step
    int32_t rows;
    bool first, last;
    Piece piece[kMaxPieces];
  };

  template <typename U>
  __aicore__ inline void Take(LocalTensor<U>& tensor, int32_t count) {
    TBuf<TPosition::VECCALC> buffer;
    pipe_.InitBuffer(buffer, RoundUp(count * sizeof(U), kBlockBytes));
    tensor = buffer.Get<U>();
  }

  // to = 0, 1, 2 ... kTileRows - 1: lane i of repeat r is lane_[i] + repeat_[r]. CreateVecIndex
  // begins with scalar writes, which do not wait for vector work that still reads the buffer.
  __aicore__ inline void Number(const LocalTensor<int32_t>& to) {
    Add(to, lane_, repeat_, kLanes, kTileRows / kLanes, BinaryRepeatParams(1, 1, 0, 8, 0, 1));
  }

  // offsets[i] = i / side * outer + i % side * inner, every i standing for `parts` blocks.
  __aicore__ inline void Arrange(const LocalTensor<uint32_t>& offsets, int32_t side, int32_t outer,
                                 int32_t inner, int32_t parts = 1) {
    const int32_t count = offsets.GetSize(), shift = parts / 2;
    const LocalTensor<int32_t> to = offsets.ReinterpretCast<int32_t>();
    const LocalTensor<int32_t> index = work_.ReinterpretCast<int32_t>();
    const LocalTensor<int32_t> quotient = work_[kTileRows].ReinterpretCast<int32_t>();
    const LocalTensor<float> ratio = work_[2 * kTileRows];
    Number(index);
    PipeBarrier<PIPE_V>();
    ShiftRight(quotient, index, shift, count);
    PipeBarrier<PIPE_V>();
    // Which of the parts, in `to`; then the number of the whole, its quotient and its remainder.
    Muls(to, quotient, -parts, count);
    PipeBarrier<PIPE_V>();
    Add(to, to, index, count);
    Cast(ratio, quotient, RoundMode::CAST_RINT, count);
    PipeBarrier<PIPE_V>();
    Muls(to, to, kBlockBytes, count);
    Adds(ratio, ratio, 0.5f, count);
    Muls(index, quotient, inner, count);
    PipeBarrier<PIPE_V>();
    Muls(ratio, ratio, 1.0f / side, count);
    Add(to, to, index, count);
    PipeBarrier<PIPE_V>();
    Cast(quotient, ratio, RoundMode::CAST_FLOOR, count);
    PipeBarrier<PIPE_V>();
    Muls(quotient, quotient, outer - side * inner, count);
    PipeBarrier<PIPE_V>();
    Add(to, to, quotient, count);
    PipeBarrier<PIPE_V>();
  }

  // The order of blocks that turns rows into fractals' columns, and the products' back into rows;
  // and data wherever an instruction may read beyond what was loaded.
  __aicore__ inline void SetUp() {
    CreateVecIndex(lane_, 0, kLanes);
    for (int32_t r = 0; r < kTileRows / kLanes; ++r)
      Duplicate(repeat_[r * kBlockWords], r * kLanes, kBlockWords);
    PipeBarrier<PIPE_V>();
    Duplicate(step_pairs_, 0, 4 * list_rows_);
    Duplicate(tile_pairs_, 0, 2 * kTileRows);
    Duplicate(order_words_.ReinterpretCast<int32_t>(), 0, order_words_.GetSize());
    Duplicate(gather_stage_.template ReinterpretCast<int32_t>(), 0,
              2 * stage_elements_ * sizeof(T) / sizeof(int32_t));
    Duplicate(product_stage_, 0.0f, product_stages_ * product_elements_);
    Arrange(to_fractals_, stage_rows_, kBlockBytes, row_blocks_ * kBlockBytes);
    const int32_t strips = width_ / kFractalRows;
    if (strips > 0) {
      product_slots_ = product_elements_ / width_ / kFractalRows * kFractalRows;
      Arrange(to_rows_, strips, 2 * kBlockBytes, product_slots_ * 2 * kBlockBytes, 2);
    }
    v_to_s_.Pass();
  }

  // Loads the bounds of a tile from offset `first` on into a window.
  __aicore__ inline void LoadBounds(int64_t tile, int32_t first, int32_t window) {
    s_to_mte2_.Pass();
    DataCopyPad(
        bounds_windows_[window * kWindowElements].ReinterpretCast<int32_t>(),
        bounds_[(tile * (tiling_.volume + 1) + first) * 2],
        DataCopyExtParams(1, (Least(kBoundsWindow, tiling_.volume - first) + 1) * 8, 0, 0, 0),
        DataCopyPadExtParams<int32_t>());
    bounds_full_.Raise(window);
  }
  // Where the pairs of the tile for an offset begin and, after Begin, end.
  __aicore__ inline int64_t Begin(Tile& tile, int32_t offset) {
    if (offset < tile.first || offset >= tile.first + kBoundsWindow) {
      tile.first = offset / kBoundsWindow * kBoundsWindow;
      LoadBounds(tile.index, tile.first, tile.window);
      bounds_full_.Await(tile.window);
    }
    return bounds_windows_.GetValue(tile.window * kWindowElements + offset - tile.first);
  }
  __aicore__ inline int64_t End(const Tile& tile, int32_t offset) {
    return bounds_windows_.GetValue(tile.window * kWindowElements + offset - tile.first + 1);
  }

  // The units of this block: from one to another between which as much work lies as in every block,
  // a pair and an output row being a unit of it.
  __aicore__ inline void Share() {
    const LocalTensor<int64_t> before = sums_.ReinterpretCast<int64_t>();
    constexpr int32_t kEntry = kBlockBytes / sizeof(int64_t);
    const int32_t most = Least(4095, sums_.GetSize() * sizeof(float) / kBlockBytes);
    const int32_t tiles = (tiling_.tiles + most - 1) / most;  // of an entry
    const int32_t entries = (tiling_.tiles + tiles - 1) / tiles;
    const int64_t stride = (tiling_.volume + 1) * static_cast<int64_t>(sizeof(int64_t)) * tiles;
    DataCopyPad(before.ReinterpretCast<int32_t>(), bounds_,
                DataCopyExtParams(entries, 8, stride - 8, 0, 0), DataCopyPadExtParams<int32_t>());
    mte2_to_s_.Pass();
    const int64_t panel = tiling_.pairs + static_cast<int64_t>(tiling_.tiles) * kTileRows;
    const int64_t all = panel * tiling_.groups * tiling_.panels;
    for (int32_t end = 0; end < 2; ++end) {
      const int64_t wanted = all * (block_ + end) / GetBlockNum();
      const int64_t rest = wanted % panel;
      int32_t low = 0, high = entries;
      while (low < high) {
        const int32_t middle = (low + high) / 2;
        const int64_t work =
            before.GetValue(middle * kEntry) + static_cast<int64_t>(middle) * tiles * kTileRows;
        if (work < rest)
          low = middle + 1;
        else
          high = middle;
      }
      (end == 0 ? unit_ : unit_end_) =
          wanted / panel * tiling_.tiles + Least(low * tiles, tiling_.tiles);
    }
    s_to_v_.Pass();
  }

  // Begins the next unit, and looks ahead.
  __aicore__ inline void Open() {
    tile_ = next_;
    panel_ = static_cast<int32_t>(unit_ / tiling_.tiles);
    offset_ = row_ = 0;
    if (tile_.order >= 0) {
      order_known_.Await();
      if (distance_.GetValue(0) == 0) {
        tile_.order = -1;
      } else {
        tile_.whole = -1;
        SortRows();
      }
    }
    Look(unit_ + 1);
  }

  // Looks at a unit's tile: are its rows in order?
  __aicore__ inline void Look(int64_t unit) {
    if (unit >= unit_end_) return;
    next_.index = unit % tiling_.tiles;
    const int64_t left = tiling_.num_out - next_.index * kTileRows;
    next_.rows = left < kTileRows ? static_cast<int32_t>(left) : kTileRows;
    next_.window = unit % 3;
    next_.first = 0;
    next_.order = next_.whole = -1;
    bounds_full_.Await(next_.window);
    for (int32_t k = 0; k < tiling_.volume && next_.order < 0; ++k) {
      const int64_t begin = Begin(next_, k);
      if (End(next_, k) - begin == next_.rows) {
        next_.order = begin;
        next_.whole = k;
      }
    }
    if (unit + 1 < unit_end_) LoadBounds((unit + 1) % tiling_.tiles, 0, (unit + 1) % 3);
    if (next_.order < 0) return;
    const LocalTensor<int32_t> numbers = work_.ReinterpretCast<int32_t>();
    const LocalTensor<float> distance = work_[kTileRows], sums = work_[2 * kTileRows];
    s_to_mte2_.Pass();
    tile_pairs_free_.Await();
    LoadPairs(tile_pairs_, pairs_, next_.order, next_.rows);
    mte2_to_v_.Pass();
    s_to_v_.Pass();
    PipeBarrier<PIPE_V>();
    Number(numbers);
    Split(tile_pairs_, 1, tile_rows_, kTileRows);
    tile_pairs_free_.Raise();
    PipeBarrier<PIPE_V>();
    Sub(numbers, tile_rows_, numbers, next_.rows);
    PipeBarrier<PIPE_V>();
    Adds(numbers, numbers, static_cast<int32_t>(-next_.index * kTileRows), next_.rows);
    PipeBarrier<PIPE_V>();
    Duplicate(distance, 0.0f, kTileRows);
    PipeBarrier<PIPE_V>();
    Cast(distance, numbers, RoundMode::CAST_RINT, next_.rows);
    PipeBarrier<PIPE_V>();
    Abs(distance, distance, next_.rows);
    PipeBarrier<PIPE_V>();
    // Not by ReduceMax, which has the scalar unit wait and write the result.
    WholeReduceSum(sums, distance, kLanes, kTileRows / kLanes, 1, 1, 8);
    PipeBarrier<PIPE_V>();
    WholeReduceSum(distance_, sums, kTileRows / kLanes, 1, 1, 1, 8);
    order_known_.Raise();
  }

  // Sorts the rows of the tile, for Place.
  __aicore__ inline void SortRows() {
    const LocalTensor<int32_t> rows = tile_rows_;
    const LocalTensor<float> from = work_, to = work_[2 * kTileRows];
    PipeBarrier<PIPE_V>();
    // Sort32 and MrgSort put the largest first.
    Duplicate(keys_, 0.0f, kTileRows);
    Number(places_.ReinterpretCast<int32_t>());
    PipeBarrier<PIPE_V>();
    Adds(keys_.ReinterpretCast<int32_t>(), rows, kSortable, tile_.rows);
    PipeBarrier<PIPE_V>();
    Sort32(from, keys_, places_.ReinterpretCast<uint32_t>(), kTileRows / 32);
    PipeBarrier<PIPE_V>();
    const uint16_t runs[4] = {32, 32, 32, 32}, longer[4] = {128, 128, 128, 128};
    MrgSort(to, MrgSortSrcList<float>(from, from[64], from[128], from[192]),
            MrgSort4Info(runs, false, 15, kTileRows / 128));
    PipeBarrier<PIPE_V>();
    MrgSort(from, MrgSortSrcList<float>(to, to[256], to[512], to[768]),
            MrgSort4Info(longer, false, 15, 1));
    PipeBarrier<PIPE_V>();
    Split(from.ReinterpretCast<int32_t>(), 0, keys_.ReinterpretCast<int32_t>(), kTileRows);
    Split(from.ReinterpretCast<int32_t>(), 1, to.ReinterpretCast<int32_t>(), kTileRows);
    PipeBarrier<PIPE_V>();
    Cast(places_, to.ReinterpretCast<int32_t>(), RoundMode::CAST_RINT, kTileRows);
    PipeBarrier<PIPE_V>();
  }

  // key[i] = table[place[i] + shift]
  __aicore__ inline void LookUp(const LocalTensor<float>& key, const LocalTensor<float>& table,
                                const LocalTensor<float>& place, float shift, int32_t count) {
    const LocalTensor<int32_t> at = work_.ReinterpretCast<int32_t>();
    Adds(key, place, shift, count);
    PipeBarrier<PIPE_V>();
    Cast(at, key, RoundMode::CAST_RINT, count);
    PipeBarrier<PIPE_V>();
    Muls(at, at, static_cast<int32_t>(sizeof(float)), count);
    PipeBarrier<PIPE_V>();
    AscendC::Gather(key, table, at.ReinterpretCast<uint32_t>(), 0, count);
    PipeBarrier<PIPE_V>();
  }

  // Where in the tile output rows are: their distance from its first, or by binary search.
  __aicore__ inline void Place(const LocalTensor<int32_t>& rows, const LocalTensor<int16_t>& to,
                               int32_t count) {
    if (tile_.order < 0) {
      Adds(rows, rows, static_cast<int32_t>(-tile_.index * kTileRows), count);
      PipeBarrier<PIPE_V>();
      Cast(to, rows, RoundMode::CAST_NONE, count);
      return;
    }
    const LocalTensor<float> wanted = rows.ReinterpretCast<float>();
    const LocalTensor<float> place = work_[kTileRows], key = work_[2 * kTileRows];
    const LocalTensor<float> jump = work_[3 * kTileRows];
    Adds(rows, rows, kSortable, count);
    Duplicate(place, 0.0f, count);
    for (int32_t step = kTileRows / 2; step > 0; step /= 2) {
      Duplicate(jump, static_cast<float>(step), count);
      PipeBarrier<PIPE_V>();
      LookUp(key, keys_, place, static_cast<float>(step - 1), count);
      Compare(above_, key, wanted, CMPMODE::GT, count);
      PipeBarrier<PIPE_V>();
      Select(jump, above_, jump, 0.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, count);
      PipeBarrier<PIPE_V>();
      Add(place, place, jump, count);
      PipeBarrier<PIPE_V>();
    }
    LookUp(key, places_, place, 0.0f, count);
    Cast(to, key, RoundMode::CAST_RINT, count);
  }

  // Fills step `index` with the next pairs and loads them: rows to gather to in_, places in the
  // tile to place_.
  __aicore__ inline bool Prepare(int32_t index) {
    Step& step = steps_[index % kLists];
    step.pieces = 0;
    step.rows = 0;
    step.first = offset_ == tiling_.volume;
    if (step.first) {
      if (unit_ >= unit_end_) {
        step.pieces = -1;
        return false;
      }
      Open();
    }
    step.panel = panel_;
    step.tile = tile_;
    s_to_v_.Pass();  // the lists of step index - kLists are read
    pairs_free_.Await(index % 2);
    const LocalTensor<int32_t> pairs = step_pairs_[index % 2 * 2 * list_rows_];
    while (offset_ < tiling_.volume) {
      // The offset that pairs every row comes first: its products begin the sums.
      const int32_t offset = offset_ > tile_.whole ? offset_
                             : offset_ == 0        ? tile_.whole
                                                   : offset_ - 1;
      const int64_t begin = Begin(tile_, offset) + row_;
      const int32_t left = static_cast<int32_t>(End(tile_, offset) - begin);
      if (left > 0) {
        if (step.rows == tiling_.step_rows) break;
        Piece& piece = step.piece[step.pieces++];
        piece.offset = offset;
        piece.first = row_;
        piece.slot = step.rows;
        piece.rows = Least(left, tiling_.step_rows - step.rows);
        LoadPairs(pairs[step.rows * 2], pairs_, begin, piece.rows);
        step.rows += RoundUp(piece.rows, kFractalRows);
        row_ += piece.rows;
        if (piece.rows < left) break;
      }
      ++offset_;
      row_ = 0;
    }
    step.last = offset_ == tiling_.volume;
    if (step.last) ++unit_;
    mte2_to_v_.Pass();
    if (step.pieces > 0) {
      const LocalTensor<int32_t> outs = outs_;
      PipeBarrier<PIPE_V>();
      Split(pairs, 0, in_[index % kLists * list_rows_], list_rows_);
      Split(pairs, 1, outs, list_rows_);
      PipeBarrier<PIPE_V>();
      Place(outs, place_[index % kLists * list_rows_], list_rows_);
    }
    pairs_free_.Raise(index % 2);
    list_full_.Raise(index % 3);
    return true;
  }

  // Copies this core's half of every piece's input rows to the workspace.
  __aicore__ inline void Gather(int32_t index) {
    const Step& step = steps_[index % kLists];
    const int32_t columns = tiling_.in_channels, stride = tiling_.groups * columns;
    const int32_t stride_blocks = tiling_.groups * row_blocks_, farthest = 0xffff / stride_blocks;
    const int64_t first_column = static_cast<int64_t>(step.panel / tiling_.panels) * columns;
    list_full_.Await(index % 3);
    Reader<int32_t> in(in_[index % kLists * list_rows_]);
    int32_t staged = 0;
    for (int32_t p = 0; p < step.pieces; ++p) {
      const Piece& piece = step.piece[p];
      const int32_t begin = piece.slot + (side_ == 0 ? 0 : piece.rows / 2);
      const int32_t end = piece.slot + (side_ == 0 ? piece.rows / 2 : piece.rows);
      int32_t row = begin < end ? in.Get(begin) : 0;
      for (int32_t slot = begin; slot < end;) {
        if (staged == 0) gather_free_.Await(stage_);
        const int32_t most = Least(end - slot, stage_rows_ - staged);
        int32_t run = 1, gap = 1, next = slot + 1 < end ? in.Get(slot + 1) : 0;
        const int32_t from = row;
        if (most > 1 && next > row && next - row <= farthest) {
          gap = next - row;
          do {
            row = next;
            next = slot + ++run < end ? in.Get(slot + run) : 0;
          } while (run < most && next - row == gap);
        }
        row = next;
        DataCopy(gather_stage_[stage_ * stage_elements_ + staged * columns],
                 features_[static_cast<int64_t>(from) * stride + first_column],
                 gap * stride_blocks == row_blocks_
                     ? DataCopyParams(1, run * row_blocks_, 0, 0)
                     : DataCopyParams(run, row_blocks_, gap * stride_blocks - row_blocks_, 0));
        Stage(slot, staged, run);
        slot += run;
        staged += run;
        if (staged == stage_rows_) staged = Flush(index);
      }
    }
    if (staged > 0) Flush(index);
  }

  // Notes where rows of the stage go.
  __aicore__ inline void Stage(int32_t slot, int32_t staged, int32_t rows) {
    if (parts_ > 0 && part_[parts_ - 1].slot + part_[parts_ - 1].rows == slot) {
      part_[parts_ - 1].rows += rows;
      return;
    }
    part_[parts_].offset = staged;
    part_[parts_].slot = slot;
    part_[parts_++].rows = rows;
  }

  // Copies the stage to the workspace, as fractals' columns: [row_blocks, step_rows, 32 B].
  __aicore__ inline int32_t Flush(int32_t index) {
    constexpr int32_t kDepth = kBlockBytes / sizeof(T);
    const LocalTensor<T> fractals = fractal_stage_[stage_ * stage_elements_];
    gather_full_.Pass(stage_);
    fractal_free_.Await(stage_);
    Gatherb(fractals.template ReinterpretCast<uint32_t>(),
            gather_stage_[stage_ * stage_elements_].template ReinterpretCast<uint32_t>(),
            to_fractals_, (stage_rows_ * row_blocks_ + 7) / 8, GatherRepeatParams(1, 8));
    gather_free_.Raise(stage_);
    v_to_mte3_.Pass();
    for (int32_t i = 0; i < parts_; ++i) {
      const Piece& part = part_[i];
      DataCopy(gathered_[index % kSteps * layout_.gathered + part.slot * kDepth],
               fractals[part.offset * kDepth],
               DataCopyParams(row_blocks_, part.rows, stage_rows_ - part.rows,
                              tiling_.step_rows - part.rows));
    }
    fractal_free_.Raise(stage_);
    stage_ = 1 - stage_;
    parts_ = 0;
    return 0;
  }

  // Tells the cube core what step `index` holds, and that it is there.
  __aicore__ inline void SendOrder(int32_t index) {
    const Step& step = steps_[index % kLists];
    if (side_ == 0) {
      const LocalTensor<uint32_t> order =
          order_words_[index % kSteps * kOrderBytes / sizeof(uint32_t)];
      order_free_.Await(index % kSteps);
      order.SetValue(0,
                     step.pieces < 0 ? kEnd : static_cast<uint32_t>(step.panel << 8 | step.pieces));
      for (int32_t p = 0; p < step.pieces; ++p)
        order.SetValue(1 + p,
                       static_cast<uint32_t>(step.piece[p].offset << 16 | step.piece[p].rows));
      s_to_mte3_.Pass();
      DataCopy(orders_[index % kSteps * kOrderBytes / sizeof(uint32_t)], order,
               RoundUp(1 + Least(kMaxPieces, step.pieces < 0 ? 0 : step.pieces), 8));
      order_free_.Raise(index % kSteps);
    }
    mte2_to_mte3_.Pass();  // the products of step index - kSteps are read, too
    CrossCoreSetFlag<2, PIPE_MTE3>(kGathered);
  }

  // Adds the products of step `index` to the tile's rows.
  __aicore__ inline void AddProducts(int32_t index) {
    const Step& step = steps_[index % kLists];
    CrossCoreWaitFlag(kMultiplied);
    if (width_ == 0) return;
    if (step.first) Begin(step);
    Reader<int16_t> place(place_[index % kLists * list_rows_]);
    int32_t piece = 0;
    for (int32_t first = 0; first < step.rows; first += product_slots_) {
      const int32_t rows = Least(product_slots_, step.rows - first);
      const LocalTensor<float> stage = product_stage_[product_ * product_elements_];
      product_free_.Await(product_);
      DataCopy(stage, products_[index % kSteps * layout_.products + first * kFractalRows],
               DataCopyParams(width_ / kFractalRows, rows * 2, (tiling_.step_rows - rows) * 2,
                              (product_slots_ - rows) * 2));
      product_full_.Pass(product_);
      bool turned = false;
      for (; piece < step.pieces && step.piece[piece].slot < first + rows; ++piece) {
        const Piece& at = step.piece[piece];
        const int32_t slot = at.slot < first ? first : at.slot, end = at.slot + at.rows;
        const int32_t last = Least(end, first + rows);
        if (at.offset == step.tile.whole) {
          SetRows(step, stage, slot - first, at.first + slot - at.slot, last - slot);
        } else {
          PipeBarrier<PIPE_V>();  // an offset's places are all different, another's are not
          if (!turned) Turn(product_rows_, stage, 0, rows);
          turned = true;
          AddRuns(place, slot, last, first);
        }
        if (end > first + rows) break;
      }
      product_free_.Raise(product_);
      product_ = product_ + 1 == product_stages_ ? 0 : product_ + 1;
    }
    if (step.last) Write(step);
  }

  // The rows of a stage of products from `slot` on.
  __aicore__ inline void Turn(const LocalTensor<float>& to, const LocalTensor<float>& stage,
                              int32_t slot, int32_t rows) {
    const int32_t blocks = width_ * static_cast<int32_t>(sizeof(float)) / kBlockBytes;
    Gatherb(to.ReinterpretCast<uint32_t>(), stage.ReinterpretCast<uint32_t>(),
            to_rows_[slot * blocks], (rows * blocks + 7) / 8, GatherRepeatParams(1, 8));
    PipeBarrier<PIPE_V>();
  }

  // Begins the sums of `rows` rows with products.
  __aicore__ inline void SetRows(const Step& step, const LocalTensor<float>& stage, int32_t slot,
                                 int32_t row, int32_t rows) {
    const LocalTensor<float> sums = sums_[row * width_];
    const int32_t blocks = width_ * static_cast<int32_t>(sizeof(float)) / kBlockBytes;
    Claim(row + rows);
    Turn(sums, stage, slot, rows);
    if (tiling_.has_bias)
      for (int32_t i = 0; i < rows; i += kMaxRunRows)
        Add(sums[i * width_], sums[i * width_], bias_row_, width_, Least(kMaxRunRows, rows - i),
            BinaryRepeatParams(1, 1, 1, blocks, blocks, 0));
  }

  // Waits until what lies where the first `rows` rows of sums will lie is written.
  __aicore__ inline void Claim(int32_t rows) {
    const int32_t written =
        Least(kTileRows, rows * static_cast<int32_t>(sizeof(float) / sizeof(T)));
    for (; claimed_ * kTileRows / kParts < written; ++claimed_) sums_free_.Await(claimed_);
  }

  // Adds the rows of the slots [slot, end); product_rows_ holds those from `first` on.
  __aicore__ inline void AddRuns(Reader<int16_t>& place, int32_t slot, int32_t end, int32_t first) {
    const int32_t blocks = width_ * static_cast<int32_t>(sizeof(float)) / kBlockBytes;
    const int32_t farthest = 255 / blocks;
    int32_t row = place.Get(slot);
    while (slot < end) {
      const int32_t to = row;
      int32_t run = 1, gap = 1, next = slot + 1 < end ? place.Get(slot + 1) : 0;
      if (slot + 1 < end && next > row && next - row <= farthest) {
        gap = next - row;
        do {
          row = next;
          next = slot + ++run < end ? place.Get(slot + run) : 0;
        } while (run < kMaxRunRows && slot + run < end && next - row == gap);
      }
      row = next;
      const LocalTensor<float> sum = sums_[to * width_];
      const LocalTensor<float> product = product_rows_[(slot - first) * width_];
      if (gap == 1 && run * width_ % kLanes == 0)
        Add(sum, sum, product, kLanes, run * width_ / kLanes, BinaryRepeatParams(1, 1, 1, 8, 8, 8));
      else
        Add(sum, sum, product, width_, run,
            BinaryRepeatParams(1, 1, 1, gap * blocks, gap * blocks, blocks));
      slot += run;
    }
  }

  __aicore__ inline int64_t FirstColumn(const Step& step) const {
    return static_cast<int64_t>(step.panel) * tiling_.panel + side_ * layout_.width[0];
  }

  // Begins a tile's sums: with the bias, or with zeros, where no offset begins them.
  __aicore__ inline void Begin(const Step& step) {
    claimed_ = 0;
    if (tiling_.has_bias && step.panel != bias_panel_) {
      bias_panel_ = step.panel;
      PipeBarrier<PIPE_ALL>();
      DataCopy(bias_row_, bias_[FirstColumn(step)], width_);
      mte2_to_v_.Pass();
    }
    if (step.tile.whole >= 0) return;
    Claim(kTileRows);
    if (!tiling_.has_bias) {
      Duplicate(sums_, 0.0f, step.tile.rows * width_);
      return;
    }
    const int32_t blocks = width_ * static_cast<int32_t>(sizeof(float)) / kBlockBytes;
    for (int32_t row = 0; row < step.tile.rows; row += kMaxRunRows)
      Adds(sums_[row * width_], bias_row_, 0.0f, width_, Least(kMaxRunRows, step.tile.rows - row),
           UnaryRepeatParams(1, 1, blocks, 0));
  }

  // Writes the tile's rows.
  __aicore__ inline void Write(const Step& step) {
    Claim(kTileRows);
    const LocalTensor<T> rows = sums_.template ReinterpretCast<T>();
    if constexpr (sizeof(T) < sizeof(float)) {
      // In place, the first elements aside: every cast's target is what the casts before it read.
      const int32_t count = step.tile.rows * width_;
      PipeBarrier<PIPE_V>();
      Cast(head_, sums_, RoundMode::CAST_RINT, Least(kLanes, count));
      for (int32_t begin = kLanes; begin < count; begin *= 2) {
        PipeBarrier<PIPE_V>();
        Cast(rows[begin], sums_[begin], RoundMode::CAST_RINT, Least(begin, count - begin));
      }
      PipeBarrier<PIPE_V>();
      Copy(rows, head_, Least(kLanes, count), 1, CopyRepeatParams(1, 1, 8, 8));
    }
    v_to_mte3_.Pass();
    const int32_t stride = tiling_.groups * tiling_.panels * tiling_.panel;
    const int32_t blocks = width_ * sizeof(T) / kBlockBytes;
    const int32_t stride_blocks = stride * sizeof(T) / kBlockBytes;
    const int64_t column = FirstColumn(step);
    if (step.tile.order < 0) {
      for (int32_t part = 0; part < kParts; ++part) {
        const int32_t row = part * kTileRows / kParts;
        const int32_t count = Least(kTileRows / kParts, step.tile.rows - row);
        if (count > 0)
          DataCopy(out_[(step.tile.index * kTileRows + row) * stride + column], rows[row * width_],
                   DataCopyParams(count, blocks, 0, stride_blocks - blocks));
        sums_free_.Raise(part);
      }
    } else {
      PipeBarrier<PIPE_ALL>();
      LoadPairs(tile_pairs_, pairs_, step.tile.order, step.tile.rows);
      mte2_to_s_.Pass();
      Reader<int32_t> pairs(tile_pairs_);
      for (int32_t row = 0; row < step.tile.rows; ++row)
        DataCopy(out_[static_cast<int64_t>(pairs.Get(2 * row + 1)) * stride + column],
                 rows[row * width_], width_);
      sums_free_.RaiseAll();
    }
  }

  const SparseConvTiling tiling_;
  const Layout layout_;
  const int32_t side_, width_;
  const int64_t block_;
  TPipe pipe_;
  GlobalTensor<T> features_, gathered_, out_;
  GlobalTensor<float> bias_, products_;
  GlobalTensor<int32_t> pairs_, bounds_;
  GlobalTensor<uint32_t> orders_;

  LocalTensor<float> sums_;           // [rows of the tile, width]
  LocalTensor<T> gather_stage_;       // [2, rows, in_channels]
  LocalTensor<T> fractal_stage_;      // [2, row_blocks, rows, 32 B]
  LocalTensor<float> product_stage_;  // [stages, width / 16, rows, 16]
  LocalTensor<float> product_rows_;   // [rows, width]
  LocalTensor<uint32_t> to_fractals_, to_rows_;
  LocalTensor<float> bias_row_;
  LocalTensor<T> head_;
  LocalTensor<int64_t> bounds_windows_;
  LocalTensor<int32_t> step_pairs_;  // [2, rows, 2]
  LocalTensor<int32_t> in_, outs_;   // [kLists, rows], [rows]
  LocalTensor<int16_t> place_;       // [kLists, rows]
  LocalTensor<uint32_t> order_words_;
  LocalTensor<int32_t> tile_pairs_, tile_rows_;
  LocalTensor<float> keys_, places_;  // the tile's rows, the largest first, and where they are
  LocalTensor<float> distance_;       // of the next tile's rows from being in order
  LocalTensor<float> work_;
  LocalTensor<int32_t> lane_, repeat_;  // see Number; each repeat's number fills a block
  LocalTensor<uint8_t> above_;

  Flags<HardEvent::V_MTE2> gather_free_, product_free_, pairs_free_;
  Flags<HardEvent::MTE2_V> gather_full_, product_full_;
  Flags<HardEvent::MTE3_V> fractal_free_, sums_free_;
  Flags<HardEvent::V_S> list_full_;
  Flags<HardEvent::MTE3_S> order_free_;
  Flags<HardEvent::MTE2_S> bounds_full_, mte2_to_s_;
  Flags<HardEvent::MTE2_V> mte2_to_v_;
  Flags<HardEvent::MTE2_MTE3> mte2_to_mte3_;
  Flags<HardEvent::S_MTE2> s_to_mte2_;
  Flags<HardEvent::S_MTE3> s_to_mte3_;
  Flags<HardEvent::S_V> s_to_v_;
  Flags<HardEvent::V_MTE2> tile_pairs_free_;
  Flags<HardEvent::V_S> order_known_;
  Flags<HardEvent::V_MTE3> v_to_mte3_;
  Flags<HardEvent::V_S> v_to_s_;

  // The unit at hand, and the first pair of it that no step holds yet.
  int64_t unit_ = 0, unit_end_ = 0;
  Tile tile_, next_;
  int32_t panel_ = 0, bias_panel_ = -1, offset_ = 0, row_ = 0, claimed_ = 0;
  int32_t row_blocks_ = 0, stage_rows_ = 0, stage_elements_ = 0;
  int32_t product_slots_ = 0, product_elements_ = 0;
  int32_t list_rows_ = 0, stage_ = 0, product_ = 0, product_stages_ = 0, parts_ = 0;
  Piece part_[kMaxPieces];
  Step steps_[kLists];
};

template <typename T>
class CubeCore {
 public:
  __aicore__ inline CubeCore(GM_ADDR weight, GM_ADDR gathered, GM_ADDR products, GM_ADDR orders,
                             const SparseConvTiling& tiling)
      : tiling_(tiling), layout_(tiling), in_blocks_(tiling.in_channels / tiling.in_step) {
    const int64_t block = GetBlockIdx();
    weight_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(weight));
    gathered_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(gathered) +
                              block * kSteps * layout_.gathered);
    products_.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(products) +
                              block * kSteps * layout_.products);
    orders_.SetGlobalBuffer(
        reinterpret_cast<__gm__ uint64_t*>(orders + block * kSteps * kOrderBytes));

    TBuf<TPosition::A1> l1;
    TBuf<TPosition::A2> l0a;
    TBuf<TPosition::B2> l0b;
    TBuf<TPosition::CO1> l0c;
    pipe_.InitBuffer(l1, kL1Bytes);
    pipe_.InitBuffer(l0a, kL0Bytes);
    pipe_.InitBuffer(l0b, kL0Bytes);
    pipe_.InitBuffer(l0c, 2 * kL0Bytes);
    rows_ = l1.Get<T>();
    weights_ = rows_[2 * layout_.gathered];
    left_ = l0a.Get<T>();
    right_ = l0b.Get<T>();
    sums_ = l0c.Get<float>();
    weight_elements_ = tiling_.in_step * tiling_.panel;
    const int32_t room = (kL1Bytes / sizeof(T) - 2 * layout_.gathered) / weight_elements_;
    const int32_t wanted = tiling_.volume * in_blocks_;
    resident_ = Least(room >= wanted ? wanted : room - 2, kMaxResident);

    rows_free_.Init(pipe_, 2);
    rows_full_.Init(pipe_, 2);
    weight_free_.Init(pipe_, 2);
    weight_full_.Init(pipe_, 1);
    mte1_to_mte2_.Init(pipe_, 1);
    operands_free_.Init(pipe_, 2);
    operands_full_.Init(pipe_, 2);
    sums_free_.Init(pipe_, 2);
    sums_full_.Init(pipe_, 2);
    s_to_mte2_.Init(pipe_, 1);
    mte2_to_fix_.Init(pipe_, 1);
  }

  __aicore__ inline void Run() {
    SetHF32Mode(false);  // plain fp32, whatever the kernel before left set
    rows_free_.RaiseAll();
    weight_free_.RaiseAll();
    operands_free_.RaiseAll();
    sums_free_.RaiseAll();
    for (int32_t step = 0;; ++step) {
      CrossCoreWaitFlag(kGathered);
      if (!Multiply(step)) break;
      CrossCoreSetFlag<2, PIPE_FIX>(kMultiplied);
    }
    rows_free_.AwaitAll();
    weight_free_.AwaitAll();
    operands_free_.AwaitAll();
    sums_free_.AwaitAll();
  }

 private:
  static constexpr int32_t kL1Bytes = 524288, kL0Bytes = 65536, kMaxResident = 512;
  static constexpr int32_t kDepth = kBlockBytes / sizeof(T);      // columns of a fractal
  static constexpr int32_t kFractal = kFractalBytes / sizeof(T);  // elements of a fractal
  static constexpr int32_t kMostRows = 128;                       // of a matrix instruction

  __aicore__ inline bool Multiply(int32_t step) {
    const GlobalTensor<uint64_t> order = orders_[step % kSteps * kOrderBytes / sizeof(uint64_t)];
    for (int32_t line = 0; line < kOrderBytes; line += 64)
      DataCacheCleanAndInvalid<uint64_t, CacheLine::SINGLE_CACHE_LINE, DcciDst::CACHELINE_OUT>(
          order[line / sizeof(uint64_t)]);
    uint64_t word = order.GetValue(0);
    const uint32_t head = static_cast<uint32_t>(word);
    if (head == kEnd) return false;
    const int32_t pieces = head & 0xff, panel = head >> 8;
    int32_t offset[kMaxPieces], count[kMaxPieces], rows = 0;
    for (int32_t p = 0; p < pieces; ++p) {
      if (p % 2 == 1) word = order.GetValue((1 + p) / 2);
      const uint32_t piece = static_cast<uint32_t>(p % 2 == 0 ? word >> 32 : word);
      offset[p] = piece >> 16;
      count[p] = piece & 0xffff;
      rows += RoundUp(count[p], kFractalRows);
    }
    // The vector core writes over this order when this step's products are there.
    s_to_mte2_.Pass();
    mte2_to_fix_.Pass();
    if (pieces == 0) return true;
    if (panel != panel_) {
      panel_ = panel;
      for (int32_t i = 0; i < resident_; ++i) loaded_[i] = false;
      mte1_to_mte2_.Pass();
    }

    const int32_t buffer = step % 2;
    rows_free_.Await(buffer);
    DataCopy(rows_[buffer * layout_.gathered], gathered_[step % kSteps * layout_.gathered],
             DataCopyParams(tiling_.in_channels / kDepth, rows, tiling_.step_rows - rows, 0));
    rows_full_.Pass(buffer);
    int32_t slot = 0;
    for (int32_t p = 0; p < pieces; ++p) {
      const int32_t most = RoundUp(count[p], kFractalRows);
      for (int32_t first = 0; first < most; first += kMostRows)
        MultiplyRows(step, rows, offset[p], slot + first, Least(kMostRows, most - first),
                     Least(kMostRows, count[p] - first));
      slot += most;
    }
    rows_free_.Raise(buffer);
    return true;
  }

  // The weight's block for an offset and a part of the input channels, in L1.
  __aicore__ inline LocalTensor<T> Weight(int32_t offset, int32_t block) {
    const int32_t index = offset * in_blocks_ + block;
    const int64_t from =
        (static_cast<int64_t>(panel_) * tiling_.volume * in_blocks_ + index) * weight_elements_;
    const bool stays = index < resident_;
    const int32_t place = stays ? index : resident_ + stream_;
    const LocalTensor<T> to = weights_[place * weight_elements_];
    if (!stays) weight_free_.Await(stream_);
    if (!stays || !loaded_[index]) {
      DataCopy(to, weight_[from], weight_elements_);
      weight_full_.Pass();
      if (stays) loaded_[index] = true;
    }
    return to;
  }
  __aicore__ inline void DoneWithWeight(int32_t offset, int32_t block) {
    if (offset * in_blocks_ + block < resident_) return;
    weight_free_.Raise(stream_);
    stream_ = 1 - stream_;
  }

  // Products of `rows` rows from `slot` on, a multiple of 16; the first `count` of them are
  // written.
  __aicore__ inline void MultiplyRows(int32_t step, int32_t step_rows, int32_t offset, int32_t slot,
                                      int32_t rows, int32_t count) {
    const LocalTensor<T> from = rows_[step % 2 * layout_.gathered];
    const LocalTensor<float> sums = sums_[sum_ * (kL0Bytes / sizeof(float))];
    const int32_t deep = tiling_.in_step / kDepth, high = rows / kFractalRows;
    const int32_t step_high = step_rows / kFractalRows;
    for (int32_t block = 0; block < in_blocks_; ++block) {
      const LocalTensor<T> weight = Weight(offset, block);
      const LocalTensor<T> left = left_[operand_ * (kL0Bytes / 2 / sizeof(T))];
      const LocalTensor<T> right = right_[operand_ * (kL0Bytes / 2 / sizeof(T))];
      operands_free_.Await(operand_);
      const int32_t start = block * deep * step_high + slot / kFractalRows;
      if (high < deep) {
        for (int32_t i = 0; i < high; ++i)
          LoadData(left[i * deep * kFractal], from,
                   LoadData2DParams(start + i, deep, step_high, 0, 0, false, 0));
      } else {
        for (int32_t i = 0; i < deep; ++i)
          LoadData(left[i * kFractal], from,
                   LoadData2DParams(start + i * step_high, high, 1, 0, deep - 1, false, 0));
      }
      LoadData(right, weight, LoadData2DParams(0, weight_elements_ / kFractal, 1, 0, 0, false, 0));
      DoneWithWeight(offset, block);
      operands_full_.Pass(operand_);
      if (block == 0)
        sums_free_.Await(sum_);
      else
        PipeBarrier<PIPE_M>();
      Mmad(sums, left, right,
           MmadParams(rows, tiling_.panel, tiling_.in_step, 0, false, block == 0));
      operands_free_.Raise(operand_);
      operand_ = 1 - operand_;
    }
    sums_full_.Pass(sum_);
    Fixpipe<float, float, CFG_NZ>(
        products_[step % kSteps * layout_.products + slot * kFractalRows], sums,
        FixpipeParamsV220(tiling_.panel, count, rows, tiling_.step_rows * 2, false));
    sums_free_.Raise(sum_);
    sum_ = 1 - sum_;
  }

  const SparseConvTiling tiling_;
  const Layout layout_;
  const int32_t in_blocks_;
  TPipe pipe_;
  GlobalTensor<T> weight_, gathered_;
  GlobalTensor<float> products_;
  GlobalTensor<uint64_t> orders_;
  LocalTensor<T> rows_, weights_, left_, right_;
  LocalTensor<float> sums_;
  Flags<HardEvent::MTE1_MTE2> rows_free_, weight_free_, mte1_to_mte2_;
  Flags<HardEvent::MTE2_MTE1> rows_full_, weight_full_;
  Flags<HardEvent::M_MTE1> operands_free_;
  Flags<HardEvent::MTE1_M> operands_full_;
  Flags<HardEvent::FIX_M> sums_free_;
  Flags<HardEvent::M_FIX> sums_full_;
  Flags<HardEvent::S_MTE2> s_to_mte2_;
  Flags<HardEvent::MTE2_FIX> mte2_to_fix_;
  int32_t weight_elements_ = 0, resident_ = 0, stream_ = 0, operand_ = 0, sum_ = 0, panel_ = -1;
  bool loaded_[kMaxResident];
};

template <typename T>
__aicore__ inline void Convolve(GM_ADDR features, GM_ADDR weight, GM_ADDR bias, GM_ADDR pairs,
                                GM_ADDR bounds, GM_ADDR gathered, GM_ADDR products, GM_ADDR orders,
                                GM_ADDR out, const SparseConvTiling& tiling) {
  if ASCEND_IS_AIC {
    CubeCore<T>(weight, gathered, products, orders, tiling).Run();
  }
  if ASCEND_IS_AIV {
    VectorCore<T>(features, bias, pairs, bounds, gathered, products, orders, out, tiling).Run();
  }
}

}  // namespace

extern "C" __global__ __aicore__ void sparse_conv_float(GM_ADDR features, GM_ADDR weight,
                                                        GM_ADDR bias, GM_ADDR pairs, GM_ADDR bounds,
                                                        GM_ADDR gathered, GM_ADDR products,
                                                        GM_ADDR orders, GM_ADDR out,
                                                        SparseConvTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  Convolve<float>(features, weight, bias, pairs, bounds, gathered, products, orders, out, tiling);
}

extern "C" __global__ __aicore__ void sparse_conv_half(GM_ADDR features, GM_ADDR weight,
                                                       GM_ADDR bias, GM_ADDR pairs, GM_ADDR bounds,
                                                       GM_ADDR gathered, GM_ADDR products,
                                                       GM_ADDR orders, GM_ADDR out,
                                                       SparseConvTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  Convolve<half>(features, weight, bias, pairs, bounds, gathered, products, orders, out, tiling);
}

extern "C" __global__ __aicore__ void sparse_conv_bfloat16(GM_ADDR features, GM_ADDR weight,
                                                           GM_ADDR bias, GM_ADDR pairs,
                                                           GM_ADDR bounds, GM_ADDR gathered,
                                                           GM_ADDR products, GM_ADDR orders,
                                                           GM_ADDR out, SparseConvTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  Convolve<bfloat16_t>(features, weight, bias, pairs, bounds, gathered, products, orders, out,
                       tiling);
}
