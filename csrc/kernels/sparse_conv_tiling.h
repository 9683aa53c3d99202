// What the host tells the sparse convolution's kernels, and the sizes that both agree on. CANN's
// launch stub repeats the structs without the constants.
#pragma once

#include "common/dtype.h"
#include "common/integers.h"
#include "common/matrix_tile.h"
#include "sparse_conv_plan_tiling.h"
#include "sparse_conv_rulebook_tiling.h"

// Channels are those of one group, padded: in_channels to whole steps of in_step, out_channels to
// panels of `panel` columns.
struct SparseConvTiling {
  int64_t num_out;  // output rows
  int64_t pairs;
  int32_t dtype;   // of features, weight and output: kFloat, kHalf or kBfloat16
  int32_t tiles;   // of the rulebook
  int32_t volume;  // kernel points
  int32_t groups;
  int32_t in_channels;
  int32_t in_step;  // contraction of one matrix instruction, at most kContractionBytes
  int32_t panels;
  int32_t panel;      // columns of one matrix instruction, a multiple of 16, at most kMatrixColumns
  int32_t step_rows;  // rows that are gathered and multiplied at a time, a multiple of 16
  int32_t has_bias;
};

// A unit is the gradient of a few kernel points that follow each other, of one panel of input and
// one of output channels, from one slab of the tiles: units go slab by slab, then by kernel points,
// by panels, by group.
struct SparseConvWeightGradTiling {
  int32_t dtype;  // of features and gradients
  int32_t tiles;
  int32_t volume;
  int32_t groups;
  int32_t panels[2];   // of the input and the output channels of a group
  int32_t panel[2];    // channels, a multiple of 16, at most kMatrixRows and kMatrixColumns
  int32_t points;      // of a unit, at most kPoints
  int32_t slabs;       // parts of the tiles that are summed apart
  int32_t tile_parts;  // chunks of a tile, at least
  int32_t ring_bits;   // 2^ring_bits rows are at hand
  int32_t step_rows;   // pairs that are gathered and multiplied at a time
};

namespace mxd::kernels::sparse_conv {

constexpr int32_t kLead = 6;  // steps from a step's gathering to the addition of its products
constexpr int32_t kSteps = kLead + 1;  // that the workspaces hold
constexpr int32_t kMaxPieces = 32;     // kernel points of a step
constexpr int32_t kMessageBytes = 192;
static_assert((1 + kMaxPieces) * sizeof(uint32_t) <= kMessageBytes);

constexpr int32_t kStepBytes = 65536;  // of a step's input rows, twice in L1
static_assert(2 * kStepBytes + 2 * kMatrixColumns * kContractionBytes <= kL1Bytes);

// Columns of which UB holds a tile's sums beside long steps and stages. With twice as many, steps
// are short, and units of work are too few for equal shares: that takes 1.4 to 1.6 times as long.
constexpr int32_t kMaxPanel = 64;
constexpr int32_t kMaxStepRows = 192;

// The two vector cores of a block share the columns of a panel: how many a core adds up.
__aicore__ constexpr int32_t ColumnsOf(int32_t panel, int32_t side) {
  const int32_t first = RoundUp((panel + 1) / 2, kFractalRows);
  return side == 0 ? first : panel - first;
}

// The workspaces of a block, kSteps times: gathered rows in the dtype of the features, products in
// fp32, and kMessageBytes. Elements of one step:
__aicore__ constexpr int64_t GatheredElements(const SparseConvTiling& tiling) {
  return static_cast<int64_t>(tiling.step_rows) * tiling.in_channels;
}
__aicore__ constexpr int64_t ProductElements(const SparseConvTiling& tiling) {
  return static_cast<int64_t>(tiling.step_rows) * tiling.panel;
}

}  // namespace mxd::kernels::sparse_conv

namespace mxd::kernels::sparse_conv_planned {

constexpr int32_t kSteps = 12;          // that the workspace of gathered rows holds
constexpr int32_t kChunkBytes = 16384;  // of a vector core in a step
constexpr int32_t kMaxPanel = 64;       // columns of which L0C holds two tiles
constexpr int32_t kPartBytes = 128;     // of an input row that are gathered at a time, at most
static_assert(2 * kPlanRows * kMaxPanel * kWord <= kL0cBytes && 2 * kChunkBytes <= kOperandBytes);

// Blocks of a chunk. SparseConvTiling is used as follows: `tiles` of kPlanRows rows, `step_rows` of
// a chunk, `in_step` channels that are gathered at a time. Workspaces of a block: kSteps times two
// chunks, twice two tiles' sums, in the dtype of the features.
__aicore__ constexpr int32_t SumElements(const SparseConvTiling& tiling) {
  return kPlanRows * tiling.panel;
}
__aicore__ constexpr int32_t ChunkElements(const SparseConvTiling& tiling) {
  return tiling.step_rows * tiling.in_step;
}

}  // namespace mxd::kernels::sparse_conv_planned

namespace mxd::kernels::sparse_conv_weight_grad {

constexpr int32_t kSteps = 8;   // that the workspace holds
constexpr int32_t kPoints = 3;  // kernel points of a unit, at most
__aicore__ constexpr int32_t PointGroups(const SparseConvWeightGradTiling& tiling) {
  return CeilDiv(tiling.volume, tiling.points);
}

// A block that has every so many units gets a different slab each time: some are denser than
// others.
__aicore__ constexpr int64_t SlabOf(const SparseConvWeightGradTiling& tiling, int64_t unit) {
  return (unit + unit / tiling.slabs) % tiling.slabs;
}

// Where the sums of a unit's kernel point `j` stand among the parts: [groups and panels, volume,
// slabs].
__aicore__ constexpr int64_t PartOf(const SparseConvWeightGradTiling& tiling, int64_t unit,
                                    int32_t j) {
  const int64_t line = unit / tiling.slabs, lines = PointGroups(tiling);
  const int64_t point = line / lines * tiling.volume + line % lines * tiling.points + j;
  return point * tiling.slabs + SlabOf(tiling, unit);
}

// Pairs of a chunk, at most; and their slots: what lies between the points is rounded up.
constexpr int32_t kChunkPairs = 464;
constexpr int32_t kChunkRows = RoundUp(kChunkPairs + kPoints * kFractalRows, kLanes);
constexpr int32_t kRingBytes = 131072;  // of the rows at hand, of one side
template <int32_t kSize>
constexpr int32_t kRowBytes = kMatrixColumns * kSize;  // of a row, at most
constexpr int32_t kMessageBytes = 64;

// Pairs of a step, by the bytes of an element: what L1 holds kLoadedSteps times, of both sides.
__aicore__ constexpr int32_t StepRows(int32_t element_bytes) {
  return element_bytes == 4 ? 128 : 256;
}
constexpr int32_t kLoadedSteps = 4;
static_assert(kLoadedSteps * StepRows(4) * 4 * (kMatrixRows + kMatrixColumns) <= kL1Bytes &&
              kLoadedSteps * StepRows(2) * 2 * (kMatrixRows + kMatrixColumns) <= kL1Bytes);

// The workspaces of a block, kSteps times: the gathered rows of the input's side (0) and of the
// gradient's (1), and kMessageBytes. Elements of one step:
__aicore__ constexpr int64_t SideElements(const SparseConvWeightGradTiling& tiling, int32_t side) {
  return static_cast<int64_t>(tiling.step_rows) * tiling.panel[side];
}
__aicore__ constexpr int64_t StepElements(const SparseConvWeightGradTiling& tiling) {
  return SideElements(tiling, 0) + SideElements(tiling, 1);
}

}  // namespace mxd::kernels::sparse_conv_weight_grad
