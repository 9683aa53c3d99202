// What the host tells the sparse convolution's kernels.
#pragma once

#include <cstdint>

// Channels are those of one group, padded: in_channels to whole steps of in_step, out_channels to
// panels of `panel` columns.
struct SparseConvTiling {
  int64_t num_out;  // output rows
  int64_t pairs;
  int32_t tiles;   // of the rulebook
  int32_t volume;  // kernel points
  int32_t groups;
  int32_t in_channels;
  int32_t in_step;  // contraction of one matrix instruction, at most 256 B
  int32_t panels;
  int32_t panel;      // columns of one matrix instruction, a multiple of 16, at most 128
  int32_t step_rows;  // rows that are gathered and multiplied at a time, a multiple of 16
  int32_t has_bias;
};

// A unit is the gradient of one kernel point, of one panel of input and one of output channels,
// from one slab of the tiles: units go slab by slab, then by kernel point, by panels, by group.
struct SparseConvWeightGradTiling {
  int32_t tiles;
  int32_t volume;
  int32_t groups;
  int32_t panels[2];  // of the input and the output channels of a group
  int32_t panel[2];   // channels, a multiple of 16, at most 128
  int32_t slabs;      // parts of the tiles that are summed apart
  int32_t step_rows;  // pairs that are gathered and multiplied at a time
};
