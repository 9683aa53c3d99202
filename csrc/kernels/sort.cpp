// A stable sort of int32 keys with their rows.
//
// Runs of keys are sorted in UB (sort_runs). Then up to kSortRuns runs are merged at once, each
// block merging buckets of its own. A bucket is what lies between two samples: every
// sample_distance-th key of each run is one, they are sorted in the same way, and every so many of
// them begin a bucket, so that no bucket is larger than a list of MrgSort. Equal keys are told
// apart by their places, so this holds for any keys. Where the buckets begin in each run is found
// by binary search (sort_split), and each bucket's pieces of all runs are loaded and merged
// (sort_merge).
#include "common/buffers.h"
#include "common/events.h"
#include "common/integer_lanes.h"
#include "sort/merge.h"
#include "sort/score.h"
#include "sort/search.h"
#include "sort_tiling.h"

namespace mxd::kernels {
namespace {

class SortRuns {
  static constexpr int32_t kWords = kPairWords * kSortRun;  // of a buffer of pairs
  static_assert((2 * kWords + kSortRun) * kWord <= kUbBytes);

 public:
  __aicore__ inline SortRuns(TPipe& pipe, const SortRunsTiling& tiling, GM_ADDR keys, GM_ADDR rows,
                             GM_ADDR pairs, GM_ADDR samples, GM_ADDR sorted_keys,
                             GM_ADDR sorted_rows)
      : tiling_(tiling), has_rows_(rows != nullptr) {
    keys_.SetGlobalBuffer((__gm__ int32_t*)keys);
    rows_.SetGlobalBuffer((__gm__ int32_t*)rows);
    pairs_.SetGlobalBuffer((__gm__ int32_t*)pairs);
    samples_.SetGlobalBuffer((__gm__ int32_t*)samples);
    sorted_keys_.SetGlobalBuffer((__gm__ int32_t*)sorted_keys);
    sorted_rows_.SetGlobalBuffer((__gm__ int32_t*)sorted_rows);
    first_ = Take<int32_t>(pipe, kWords);
    second_ = Take<int32_t>(pipe, kWords);
    numbers_ = Take<int32_t>(pipe, kSortRun);
  }

  __aicore__ inline void Process() {
    CreateVecIndex(numbers_, 0, kSortRun);
    PipeBarrier<PIPE_V>();
    const int32_t runs = CeilDiv(tiling_.count, tiling_.run);
    for (int32_t run = GetBlockIdx(); run < runs; run += GetBlockNum()) {
      const int32_t begin = run * tiling_.run;
      const int32_t count = MinOf(tiling_.run, tiling_.count - begin);
      const LocalTensor<int32_t> sorted = Sort(begin, count);
      const LocalTensor<int32_t> free =
          sorted.GetPhyAddr() == first_.GetPhyAddr() ? second_ : first_;
      if (runs == 1)
        WriteSorted(sorted, free, count);
      else
        WritePairs(sorted, free, begin, count);
      SetWait<HardEvent::V_MTE2>();
      SetWait<HardEvent::MTE3_MTE2>();
      SetWait<HardEvent::MTE3_V>();
    }
  }

 private:
  __aicore__ inline LocalTensor<int32_t> Sort(int32_t begin, int32_t count) {
    const LocalTensor<int32_t> score = second_, row = second_[kSortRun];
    const int32_t whole = RoundUp(count, kBlockWords), padded = RoundUp(count, kSort32);
    DataCopyPad(score, keys_[begin], Words(count),
                {true, 0, static_cast<uint8_t>(whole - count), kSortPad});
    if (has_rows_)
      DataCopyPad(row, rows_[begin], Words(count),
                  {true, 0, static_cast<uint8_t>(whole - count), 0});
    SetWait<HardEvent::MTE2_V>();
    if (whole < padded) {
      Duplicate(score[whole], kSortPad, padded - whole);
      if (has_rows_) Duplicate(row[whole], 0, padded - whole);
    }
    if (!has_rows_) Adds(row, numbers_, begin, padded);
    PipeBarrier<PIPE_V>();
    Adds(score, score, kKeyToScore, padded);
    PipeBarrier<PIPE_V>();
    const LocalTensor<float> pairs = first_.ReinterpretCast<float>();
    for (int32_t at = 0; at < padded; at += kSort32 * kMaxSort32) {
      Sort32(pairs[kPairWords * at], score[at].ReinterpretCast<float>(),
             row[at].ReinterpretCast<uint32_t>(), MinOf(kMaxSort32, (padded - at) / kSort32));
    }
    PipeBarrier<PIPE_V>();
    return MergeEqual(pairs, second_.ReinterpretCast<float>(), kSort32, padded)
        .ReinterpretCast<int32_t>();
  }

  __aicore__ inline void WriteSorted(const LocalTensor<int32_t>& sorted,
                                     const LocalTensor<int32_t>& free, int32_t count) {
    PairWords(free, sorted, 0, count);
    PairWords(free[kSortRun], sorted, 1, count);
    PipeBarrier<PIPE_V>();
    Adds(free, free, -kKeyToScore, count);
    SetWait<HardEvent::V_MTE3>();
    DataCopyPad(sorted_keys_, free, Words(count));
    DataCopyPad(sorted_rows_, free[kSortRun], Words(count));
  }

  __aicore__ inline void WritePairs(const LocalTensor<int32_t>& sorted,
                                    const LocalTensor<int32_t>& free, int32_t begin,
                                    int32_t count) {
    const int32_t samples = CeilDiv(count, tiling_.sample_distance);
    const LocalTensor<int32_t> offsets = free, sample = free[kSortRun];
    Muls(offsets, numbers_, tiling_.sample_distance * kPairBytes, samples);
    PipeBarrier<PIPE_V>();
    Gather(sample, sorted, offsets.ReinterpretCast<uint32_t>(), 0, samples);
    PipeBarrier<PIPE_V>();
    Adds(sample, sample, -kKeyToScore, samples);
    SetWait<HardEvent::V_MTE3>();
    DataCopyPad(pairs_[static_cast<int64_t>(kPairWords) * begin], sorted,
                Words(kPairWords * count));
    DataCopyPad(samples_[begin / tiling_.sample_distance], sample, Words(samples));
  }

  static constexpr int32_t kSort32 = 32, kMaxSort32 = 128;  // keys of a Sort32, repeats at once

  const SortRunsTiling tiling_;
  const bool has_rows_;
  GlobalTensor<int32_t> keys_, rows_, pairs_, samples_, sorted_keys_, sorted_rows_;
  LocalTensor<int32_t> first_, second_, numbers_;
};

class SortSplit {
  static constexpr int32_t kBounds = 1024;           // buckets' beginnings at once
  static constexpr int32_t kTable = 2 * kSortChunk;  // entries and what is behind them
  static constexpr int32_t kLists = 6;               // of kBounds words

 public:
  __aicore__ inline SortSplit(TPipe& pipe, const SortSplitTiling& tiling, GM_ADDR pairs,
                              GM_ADDR sample_keys, GM_ADDR sample_places, GM_ADDR positions)
      : tiling_(tiling), lanes_(pipe, kBounds) {
    pairs_.SetGlobalBuffer((__gm__ int32_t*)pairs);
    sample_keys_.SetGlobalBuffer((__gm__ int32_t*)sample_keys);
    sample_places_.SetGlobalBuffer((__gm__ int32_t*)sample_places);
    positions_.SetGlobalBuffer((__gm__ int32_t*)positions);
    raw_ = Take<int32_t>(pipe, kTable);
    table_ = Take<int32_t>(pipe, kTable);
    offsets_ = Take<int32_t>(pipe, kBounds);
    key_ = Take<int32_t>(pipe, kBounds);
    run_ = Take<int32_t>(pipe, kBounds);
    place_ = Take<int32_t>(pipe, kBounds);
    position_ = Take<int32_t>(pipe, kBounds);
    scratch_ = Take<int32_t>(pipe, kBounds);
    target_ = Take<int32_t>(pipe, kBounds);
    static_assert((2 * kTable + (kLists + 1 + 2) * kBounds) * kWord <= kUbBytes);
  }

  __aicore__ inline void Process() {
    CreateVecIndex(offsets_, 0, kBounds);
    PipeBarrier<PIPE_V>();
    Muls(offsets_, offsets_, kBlockBytes, kBounds);
    PipeBarrier<PIPE_V>();
    const int32_t chunks = CeilDiv(tiling_.count, tiling_.chunk);
    for (int32_t first = 1; first < tiling_.buckets; first += kBounds) {
      const int32_t bounds = MinOf(kBounds, tiling_.buckets - first);
      bool loaded = false;
      for (int32_t chunk = GetBlockIdx(); chunk < chunks; chunk += GetBlockNum()) {
        if (!loaded) LoadBounds(first, bounds);
        loaded = true;
        Count(chunk, first, bounds);
      }
    }
  }

 private:
  // The samples where buckets [first, first + bounds) begin: key_, and in run_ and place_ where
  // they are.
  __aicore__ inline void LoadBounds(int32_t first, int32_t bounds) {
    LoadSparse(key_, sample_keys_, first, bounds);
    LoadSparse(place_, sample_places_, first, bounds);
    Muls(place_, place_, tiling_.sample_distance, bounds);
    PipeBarrier<PIPE_V>();
    lanes_.Divide(run_, place_, tiling_.run, tiling_.inverse_run, bounds);
  }

  // Every `samples`-th word of a list, each by a burst into a block of its own.
  __aicore__ inline void LoadSparse(const LocalTensor<int32_t>& to,
                                    const GlobalTensor<int32_t>& from, int32_t first,
                                    int32_t count) {
    SetWait<HardEvent::V_MTE2>();
    DataCopyPad(raw_, from[static_cast<int64_t>(first) * tiling_.samples],
                {static_cast<uint16_t>(count), kWord,
                 static_cast<uint32_t>((tiling_.samples - 1) * kWord), 0, 0},
                {false, 0, 0, 0});
    SetWait<HardEvent::MTE2_V>();
    Gather(to, raw_, offsets_.ReinterpretCast<uint32_t>(), 0, count);
    PipeBarrier<PIPE_V>();
  }

  // Adds to the positions of the chunk's run how many of the chunk's pairs are before each bucket.
  __aicore__ inline void Count(int32_t chunk, int32_t first, int32_t bounds) {
    const int64_t begin = static_cast<int64_t>(chunk) * tiling_.chunk;
    const int32_t count = static_cast<int32_t>(
        begin + tiling_.chunk < tiling_.count ? tiling_.chunk : tiling_.count - begin);
    const int32_t run = static_cast<int32_t>(begin / tiling_.run);
    const int32_t offset = static_cast<int32_t>(begin % tiling_.run);
    SetWait<HardEvent::V_MTE2>();
    DataCopyPad(raw_, pairs_[kPairWords * begin], Words(kPairWords * count), {false, 0, 0, 0});
    const int32_t power = PowerAbove(count);
    Duplicate(table_, kSortPad, power);
    // Equal keys: the bucket begins behind those of the runs before its sample's.
    Muls(scratch_, run_, -1, bounds);
    PipeBarrier<PIPE_V>();
    Adds(scratch_, scratch_, run, bounds);
    PipeBarrier<PIPE_V>();
    ShiftRight(target_, scratch_, 31, bounds);
    PipeBarrier<PIPE_V>();
    Sub(target_, key_, target_, bounds);
    SetWait<HardEvent::MTE2_V>();
    PairWords(table_, raw_, 0, count);
    PipeBarrier<PIPE_V>();
    Adds(table_, table_, -kKeyToScore, count);
    PipeBarrier<PIPE_V>();
    CountBelow(position_, table_, target_, scratch_, power, bounds);
    ShiftRight(position_, position_, 2, bounds);
    // In the sample's own run its place says it: place + (position - place) * (0 there, else 1).
    Muls(scratch_, run_, -1, bounds);
    PipeBarrier<PIPE_V>();
    Adds(scratch_, scratch_, run, bounds);
    PipeBarrier<PIPE_V>();
    Muls(target_, scratch_, -1, bounds);
    PipeBarrier<PIPE_V>();
    Max(scratch_, scratch_, target_, bounds);
    PipeBarrier<PIPE_V>();
    Mins(scratch_, scratch_, 1, bounds);
    Adds(target_, place_, -offset, bounds);
    PipeBarrier<PIPE_V>();
    Maxs(target_, target_, 0, bounds);
    PipeBarrier<PIPE_V>();
    Mins(target_, target_, count, bounds);
    PipeBarrier<PIPE_V>();
    Sub(position_, position_, target_, bounds);
    PipeBarrier<PIPE_V>();
    Mul(position_, position_, scratch_, bounds);
    SetWait<HardEvent::MTE3_V>();
    PipeBarrier<PIPE_V>();
    Add(position_, position_, target_, bounds);
    SetWait<HardEvent::V_MTE3>();
    SetAtomicAdd<int32_t>();
    DataCopyPad(positions_[static_cast<int64_t>(run) * tiling_.pitch + first], position_,
                Words(bounds));
    SetAtomicNone();
    SetWait<HardEvent::MTE3_V>();
  }

  const SortSplitTiling tiling_;
  IntegerLanes lanes_;
  GlobalTensor<int32_t> pairs_, sample_keys_, sample_places_, positions_;
  LocalTensor<int32_t> raw_, table_, offsets_;
  LocalTensor<int32_t> key_, run_, place_, position_, scratch_, target_;  // by bucket
};

class SortMerge {
  static constexpr int32_t kSlots = kSortList + 1 + 4 * kSortRuns;  // each piece begins a block
  static constexpr int32_t kOut = kSortList + 1;
  static_assert((2 * kPairWords * kSlots + 2 * kPairWords * kOut + kOut + 8 * kSortRuns) * kWord <=
                kUbBytes);

 public:
  __aicore__ inline SortMerge(TPipe& pipe, const SortMergeTiling& tiling, GM_ADDR pairs,
                              GM_ADDR positions, GM_ADDR merged, GM_ADDR sorted_keys,
                              GM_ADDR sorted_rows)
      : tiling_(tiling) {
    pairs_.SetGlobalBuffer((__gm__ int32_t*)pairs);
    positions_.SetGlobalBuffer((__gm__ int32_t*)positions);
    merged_.SetGlobalBuffer((__gm__ int32_t*)merged);
    sorted_keys_.SetGlobalBuffer((__gm__ int32_t*)sorted_keys);
    sorted_rows_.SetGlobalBuffer((__gm__ int32_t*)sorted_rows);
    first_ = Take<int32_t>(pipe, kPairWords * kSlots);
    second_ = Take<int32_t>(pipe, kPairWords * kSlots);
    out_ = Take<int32_t>(pipe, kPairWords * kOut);
    words_ = Take<int32_t>(pipe, kPairWords * kOut);
    firsts_ = Take<int32_t>(pipe, kOut);
    bounds_ = Take<int32_t>(pipe, kBlockWords * kSortRuns);
  }

  __aicore__ inline void Process() {
    CreateVecIndex(words_, 0, kPairWords * kOut);
    PipeBarrier<PIPE_V>();
    Muls(firsts_, words_, kPairBytes, kOut);
    PipeBarrier<PIPE_V>();
    Muls(words_, words_, kWord, kPairWords * kOut);
    PipeBarrier<PIPE_V>();
    for (int32_t bucket = GetBlockIdx(); bucket < tiling_.buckets; bucket += GetBlockNum())
      Merge(bucket);
  }

 private:
  __aicore__ inline void Merge(int32_t bucket) {
    DataCopyPad(bounds_, positions_[bucket],
                {static_cast<uint16_t>(tiling_.runs), kPairBytes,
                 static_cast<uint32_t>((tiling_.pitch - kPairWords) * kWord), 0, 0},
                {false, 0, 0, 0});
    SetWait<HardEvent::MTE2_S>();
    const bool last = bucket + 1 == tiling_.buckets;
    int64_t begin = 0;  // of the bucket, among all pairs
    int32_t size = 0, end = 0, lists = 0;
    for (int32_t run = 0; run < tiling_.runs; run++) {
      const int64_t bounds =
          bounds_.template ReinterpretCast<int64_t>().GetValue(run * (kBlockBytes / 8));
      const int64_t first = static_cast<int64_t>(run) * tiling_.run;
      const int32_t run_size = static_cast<int32_t>(
          first + tiling_.run < tiling_.count ? tiling_.run : tiling_.count - first);
      const int32_t from = static_cast<int32_t>(bounds);
      const int32_t to = last ? run_size : static_cast<int32_t>(bounds >> 32);
      begin += from;
      size += to - from;
      // Blocks write whole blocks of 32 bytes: of the bucket behind, the pairs up to there.
      const int32_t piece = MinOf(to + kBlockWords - 1, run_size) - from;
      if (piece == 0) continue;
      DataCopyPad(first_[kPairWords * end], pairs_[kPairWords * (first + from)],
                  Words(kPairWords * piece), {false, 0, 0, 0});
      at_[lists] = end;
      length_[lists++] = piece;
      end += RoundUp(piece, kBlockBytes / kPairBytes);
    }
    SetWait<HardEvent::MTE2_V>();
    const int64_t write = (begin + kBlockWords - 1) / kBlockWords * kBlockWords;
    int64_t write_end = (begin + size + kBlockWords - 1) / kBlockWords * kBlockWords;
    if (write_end > tiling_.count) write_end = tiling_.count;
    if (write < write_end) {
      const LocalTensor<int32_t> sorted =
          MergeLists(first_.ReinterpretCast<float>(), second_.ReinterpretCast<float>(), at_,
                     length_, lists)
              .ReinterpretCast<int32_t>();
      Write(sorted, static_cast<int32_t>(write - begin), write,
            static_cast<int32_t>(write_end - write));
    }
    SetWait<HardEvent::S_MTE2>();
    SetWait<HardEvent::V_MTE2>();
  }

  // Writes pairs [from, from + count) of UB to [to, to + count) of the result.
  __aicore__ inline void Write(const LocalTensor<int32_t>& sorted, int32_t from, int64_t to,
                               int32_t count) {
    const LocalTensor<uint32_t> firsts = firsts_.ReinterpretCast<uint32_t>();
    if (!tiling_.last) {
      Gather(out_, sorted, words_.ReinterpretCast<uint32_t>(), from * kPairBytes,
             kPairWords * count);
      SetWait<HardEvent::V_MTE3>();
      DataCopyPad(merged_[kPairWords * to], out_, Words(kPairWords * count));
    } else {
      const LocalTensor<int32_t> rows = out_[kOut];
      Gather(out_, sorted, firsts, from * kPairBytes, count);
      Gather(rows, sorted, firsts, from * kPairBytes + kWord, count);
      PipeBarrier<PIPE_V>();
      Adds(out_, out_, -kKeyToScore, count);
      SetWait<HardEvent::V_MTE3>();
      DataCopyPad(sorted_keys_[to], out_, Words(count));
      DataCopyPad(sorted_rows_[to], rows, Words(count));
    }
    SetWait<HardEvent::MTE3_V>();
  }

  const SortMergeTiling tiling_;
  GlobalTensor<int32_t> pairs_, positions_, merged_, sorted_keys_, sorted_rows_;
  LocalTensor<int32_t> first_, second_, out_, words_, firsts_, bounds_;
  int32_t at_[kSortRuns], length_[kSortRuns];
};

}  // namespace
}  // namespace mxd::kernels

// Sorts each run of keys int32 [count] with rows int32 [count] (null: 0, 1, 2 ...). A single run
// goes to sorted_keys and sorted_rows; of several the pairs are written, 8 bytes [count], and
// samples int32 [count / sample_distance].
extern "C" __global__ __aicore__ void sort_runs(GM_ADDR keys, GM_ADDR rows, GM_ADDR pairs,
                                                GM_ADDR samples, GM_ADDR sorted_keys,
                                                GM_ADDR sorted_rows, SortRunsTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  AscendC::TPipe pipe;
  mxd::kernels::SortRuns(pipe, tiling, keys, rows, pairs, samples, sorted_keys, sorted_rows)
      .Process();
}

// Adds to positions int32 [runs, pitch], which must hold zeros, where buckets begin in the runs.
// Samples are sorted: their keys, and the numbers of their places.
extern "C" __global__ __aicore__ void sort_split(GM_ADDR pairs, GM_ADDR sample_keys,
                                                 GM_ADDR sample_places, GM_ADDR positions,
                                                 SortSplitTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  AscendC::TPipe pipe;
  mxd::kernels::SortSplit(pipe, tiling, pairs, sample_keys, sample_places, positions).Process();
}

// Merges the runs of pairs, to merged or, the last time, to sorted_keys and sorted_rows.
extern "C" __global__ __aicore__ void sort_merge(GM_ADDR pairs, GM_ADDR positions, GM_ADDR merged,
                                                 GM_ADDR sorted_keys, GM_ADDR sorted_rows,
                                                 SortMergeTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  AscendC::TPipe pipe;
  mxd::kernels::SortMerge(pipe, tiling, pairs, positions, merged, sorted_keys, sorted_rows)
      .Process();
}
