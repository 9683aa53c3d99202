// Tilings of the kernels of rotated boxes.
//
// CANN's launch stub repeats the structs without the constants.
#pragma once

#include "common/machine.h"

// Overlaps of all pairs of `rows` and `columns` boxes, or of `rows` pairs if `aligned`.
struct RotatedIouTiling {
  int32_t rows, columns, aligned, mode;  // mode: Mode of rotated_iou.h
  float inverse_columns;                 // a little less than 1 / columns
};

// Which boxes suppress which: a bit for each pair, in rows of `pitch` words. `columns`: numbers of
// a box, 5, 6 with a label, or 2 where a squared distance of at most the threshold suppresses.
// `groups` of `count` boxes each; of one group what is kept takes kept_pitch numbers.
struct RotatedNmsTiling {
  int32_t groups, count, columns, pitch, kept_pitch, inclusive;
  float threshold;
};

struct RotatedNmsKeysTiling {
  int32_t count;
};

namespace mxd::kernels {

constexpr int32_t kPairsAtOnce = 256;      // pairs of boxes in lanes: their bits are 32 bytes
constexpr int32_t kNmsMaxBoxes = 1 << 18;  // their bits, in a row, fit UB
constexpr int32_t kNmsGroup = 64;          // boxes that are decided together
constexpr int32_t kNmsMaxValid = 4096;     // boxes of a group of which some are not valid

}  // namespace mxd::kernels
