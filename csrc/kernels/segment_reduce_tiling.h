// Tilings of the reductions of rows by segment. Segment s has the entries [begins[s], begins[s +
// 1]) of a list of rows.
//
// Entries and ends of segments form one sequence: the entries of a segment, then its end. Chunk c
// is what lies in [c * chunk, (c + 1) * chunk) of it: so no chunk has many entries, nor many
// segments. splits[c] is how many segments end before chunk c; its first entry is c * chunk -
// splits[c]. Chunks are the same for any number of cores, and so are all results.
#pragma once

#include "common/dtype.h"
#include "common/integers.h"

struct SegmentSplitTiling {
  int32_t segments, chunk, chunks;
};

// A unit is some chunks that one core works on after each other. What a unit has of a segment that
// does not begin and end in it comes to partials [units, 2]: of the one that ends in it, of the one
// that goes on behind it.
struct SegmentReduceTiling {
  int32_t segments, entries, channels;
  int32_t slice;  // channels worked on at a time
  int32_t pitch;  // words of a row of partials
  int32_t chunk, chunks;
  int32_t unit, units;     // chunks of a unit, and how many units
  int32_t dtype;           // of the rows: kFloat, kHalf or kBfloat16
  int32_t mean;            // a sum is divided by the number of entries
  int32_t nan;             // a maximum is NaN wherever one is, else never
  int32_t add_output;      // whether two cores' outputs may share 32 B: then both add to zeros
  int32_t depths, pixels;  // of a sum of lifted points, see segment_sum_lifted.cpp
};

// Rows of a matrix in the order of a list; zeros where the list is -1.
struct SegmentGatherTiling {
  int32_t number_bytes;    // 4, or 2
  int32_t count, columns;  // of the list; numbers of a row
  int32_t slice, rows;     // columns and rows worked on at a time
};

namespace mxd::kernels {

// How many numbers the rows of a chunk may have, with the row carried over from the chunk before.
constexpr int32_t kSegmentSumWords = 8192, kSegmentMaxWords = 8320, kSegmentWhereWords = 4608;
constexpr int32_t kSegmentChunk = 1016;       // places of the sequence, at most
constexpr int32_t kSegmentMaxChunk = 216;     // of a maximum
constexpr int32_t kSegmentPiece = 16;         // slots of a piece of a segment, at most
constexpr int32_t kSegmentLeast = 64;         // at least, if UB holds the rows of so many
constexpr int32_t kSegmentLiftedChunk = 248;  // of a sum of lifted points: a repeat a row
constexpr int32_t kSegmentUnit = 1024;        // chunks of a unit, at most
constexpr int32_t kSegmentUnits = 320;        // wanted: several for each core, so that all are busy
constexpr int32_t kSegmentSlice = 256;        // channels at a time, at most
constexpr int32_t kSegmentGatherBytes = 49152, kSegmentGatherRows = 2048;  // of a buffer

}  // namespace mxd::kernels
