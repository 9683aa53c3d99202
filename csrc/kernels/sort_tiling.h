// Tilings of the sort's kernels: a stable sort of int32 keys with their rows.
//
// Runs of keys are sorted in UB (sort_runs). Then up to kSortRuns runs are merged at once. The
// merge is cut into buckets, the keys between two samples. Every sample_distance-th key of each run
// is a sample; the samples are sorted in the same way, and every so many of them a bucket begins,
// so that no bucket is larger than a list of MrgSort. Equal keys are told apart by their places, so
// this holds for any keys. Where the buckets begin in each run is found by binary search
// (sort_split), then the pieces of each bucket are merged (sort_merge).
//
// Keys are in [-1, kSortMaxKey]; a pair is 8 bytes, a key's score and its row, as Sort32 and
// MrgSort hold them (sort/score.h).
//
// CANN's launch stub repeats the structs without the constants.
#pragma once

#include "common/machine.h"

// Runs of `run` keys, each sorted. Of a single run keys and rows are written, else its pairs, and
// of them the keys of every sample_distance-th.
struct SortRunsTiling {
  int32_t count, run, sample_distance;
};

// Where the buckets of a merge begin in each run: positions [runs, pitch], column b for bucket b.
// Bucket b begins at the sample that is number b * samples in the order of all samples.
struct SortSplitTiling {
  int32_t count, run, chunk;  // chunk: of a run, at once
  int32_t sample_distance, samples, buckets, pitch;
  float inverse_run;  // a little less than 1 / run
};

// The merge of all runs, bucket by bucket. The last one of a sort writes keys and rows, others
// pairs.
struct SortMergeTiling {
  int32_t count, run, runs, buckets, pitch, last;
};

// Rows of a table in the order of a list: `columns` words each, in reverse if `flip`.
struct SortTakeTiling {
  int32_t rows, count, columns, flip;
  float inverse_columns;  // a little less than 1 / columns
};

// Keys that differ from the one before: `words` lists of them, `pitch` words apart.
struct SortUniqueTiling {
  int32_t count, words, pitch, out_pitch;
};

namespace mxd::kernels {

constexpr int32_t kSortRun = 8192;   // keys of a run, at most
constexpr int32_t kSortRuns = 128;   // runs that are merged at once, at most
constexpr int32_t kSortList = 4095;  // pairs of a list of MrgSort, and so of a bucket, at most
constexpr int32_t kSortChunk = 4096;
// Scores are normal fp32 numbers; there are so many of one sign.
constexpr int32_t kSortMaxKey = 0x7efffffe;
constexpr int32_t kKeyToScore = -2139095039;  // key -1: 0x80800000, the smallest normal number

}  // namespace mxd::kernels
