// What the host tells the sparse convolution's kernels.
#pragma once

#include <cstdint>

// Channels are those of one group, padded: in_channels to whole steps of in_step, out_channels to
// panels of `panel` columns.
struct SparseConvTiling {
  int64_t num_out;   // output rows
  int32_t tiles;     // of the rulebook
  int32_t volume;    // kernel points
  int32_t groups;
  int32_t in_channels;
  int32_t in_step;   // contraction of one matrix instruction, at most 256 B
  int32_t panels;
  int32_t panel;     // columns of one matrix instruction, a multiple of 16, at most 128
  int32_t step_rows;  // rows that are gathered and multiplied at a time, a multiple of 16
  int32_t has_bias;
};
