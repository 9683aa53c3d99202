// The different keys of a sorted list, and where each of them begins. A key is one word or several,
// in lists of their own. A first pass counts the keys of each block's share, the second one writes
// them behind those of the blocks before; two blocks may write into the same 32 bytes, so they add
// to zeros.
#include "common/buffers.h"
#include "common/events.h"
#include "common/run.h"
#include "sort/differ.h"
#include "sort_tiling.h"

namespace mxd::kernels {
namespace {

template <bool kWrite>
class SortUnique {
  static constexpr int32_t kBuffers = 8;
  static_assert((kBuffers * kSortChunk + kSortChunk / 32 + 512) * kWord <= kUbBytes);

 public:
  __aicore__ inline SortUnique(TPipe& pipe, const SortUniqueTiling& tiling, GM_ADDR keys,
                               GM_ADDR counts, GM_ADDR unique, GM_ADDR begins, GM_ADDR total)
      : tiling_(tiling), wants_begins_(begins != nullptr) {
    Bind(keys_, keys, counts_, counts, unique_, unique, begins_, begins, total_, total);
    Take(pipe, kSortChunk, key_, before_, differs_, scratch_, numbers_, out_);
    first_ = Take<uint8_t>(pipe, kSortChunk / 8);
    counts_in_ub_ = Take<int32_t>(pipe, kBlockWords * kMaxBlocks);
  }

  __aicore__ inline void Process() {
    CreateVecIndex(numbers_, 0, kSortChunk);
    PipeBarrier<PIPE_V>();
    int32_t found = kWrite ? CountBefore() : 0;
    const int64_t share =
        RoundUp(CeilDiv(tiling_.count, static_cast<int32_t>(GetBlockNum())), kBlockWords);
    const int64_t begin = GetBlockIdx() * share;
    const int64_t end = begin + share < tiling_.count ? begin + share : tiling_.count;
    for (int64_t at = begin; at < end; at += kSortChunk)
      found += ProcessChunk(at, static_cast<int32_t>(end - at < kSortChunk ? end - at : kSortChunk),
                            found);
    if constexpr (!kWrite) {
      Send(counts_[GetBlockIdx() * kBlockWords], found, false);
    } else {
      if (GetBlockIdx() + 1 == GetBlockNum()) Send(total_, found, true);
    }
  }

 private:
  static constexpr int32_t kMaxBlocks = 64;

  __aicore__ inline int32_t CountBefore() {
    const int32_t blocks = static_cast<int32_t>(GetBlockIdx());
    if (blocks == 0) return 0;
    DataCopyPad(counts_in_ub_, counts_, Words(blocks * kBlockWords), {false, 0, 0, 0});
    SetWait<HardEvent::MTE2_S>();
    int32_t before = 0;
    for (int32_t block = 0; block < blocks; block++)
      before += counts_in_ub_.GetValue(block * kBlockWords);
    return before;
  }

  // Writes a block of 32 bytes, or adds one word.
  __aicore__ inline void Send(const GlobalTensor<int32_t>& to, int32_t value, bool add) {
    SetWait<HardEvent::MTE3_V>();
    Duplicate(out_, value, kBlockWords);
    SetWait<HardEvent::V_MTE3>();
    if (add) SetAtomicAdd<int32_t>();
    DataCopyPad(to, out_, Words(add ? 1 : kBlockWords));
    if (add) SetAtomicNone();
  }

  // How many keys of [begin, begin + count) differ from the one before.
  __aicore__ inline int32_t ProcessChunk(int64_t begin, int32_t count, int32_t found) {
    const int32_t whole = RoundUp(count, kLanes);
    Duplicate(differs_, 0, whole);
    for (int32_t word = 0; word < tiling_.words; word++) {
      const GlobalTensor<int32_t> keys = keys_[static_cast<int64_t>(word) * tiling_.pitch];
      SetWait<HardEvent::V_MTE2>();
      DataCopyPad(key_, keys[begin], Words(count), {false, 0, 0, 0});
      LoadBefore(keys, begin, count);
      SetWait<HardEvent::MTE2_V>();
      MarkDifferent(differs_, key_, before_, scratch_, count);
      if (word == 0) {  // kSortMaxKey is no key
        Muls(nothing(), key_, -1, count);
        PipeBarrier<PIPE_V>();
        Adds(nothing(), nothing(), kSortMaxKey, count);
        PipeBarrier<PIPE_V>();
      }
    }
    Min(differs_, differs_, nothing(), count);
    PipeBarrier<PIPE_V>();
    Mins(differs_, differs_, 1, count);
    PipeBarrier<PIPE_V>();
    CompareScalar(first_, differs_, 1, CMPMODE::EQ, whole);
    PipeBarrier<PIPE_V>();
    if constexpr (!kWrite) return Compact(numbers_, count);

    int32_t kept = 0;
    for (int32_t word = 0; word < tiling_.words; word++) {
      if (tiling_.words > 1) {
        SetWait<HardEvent::V_MTE2>();
        DataCopyPad(key_, keys_[static_cast<int64_t>(word) * tiling_.pitch + begin], Words(count),
                    {false, 0, 0, 0});
        SetWait<HardEvent::MTE2_V>();
      }
      kept = Compact(key_, count);
      Write(unique_[static_cast<int64_t>(word) * tiling_.out_pitch + found], kept);
    }
    if (wants_begins_) {
      Adds(scratch_, numbers_, static_cast<int32_t>(begin), count);
      PipeBarrier<PIPE_V>();
      Compact(scratch_, count);
      Write(begins_[found], kept);
    }
    return kept;
  }

  __aicore__ inline LocalTensor<int32_t> nothing() { return out_; }

  // before_: the key before each one; before the very first kNoKey, which equals no key.
  __aicore__ inline void LoadBefore(const GlobalTensor<int32_t>& keys, int64_t begin,
                                    int32_t count) {
    if (begin > 0) {
      DataCopyPad(before_, keys[begin - 1], Words(count), {false, 0, 0, 0});
    } else if (count > 1) {
      DataCopyPad(before_, keys, Words(count - 1), {true, 1, 0, kNoKey});
    } else {
      Duplicate(before_, kNoKey, kBlockWords);
      PipeBarrier<PIPE_V>();
    }
  }

  __aicore__ inline int32_t Compact(const LocalTensor<int32_t>& from, int32_t count) {
    uint64_t kept = 0;
    SetWait<HardEvent::MTE3_V>();
    GatherMask(out_, from, first_.ReinterpretCast<uint32_t>(), true, static_cast<uint32_t>(count),
               {1, 1, 8, 0}, kept);
    PipeBarrier<PIPE_V>();
    return static_cast<int32_t>(kept);
  }

  __aicore__ inline void Write(const GlobalTensor<int32_t>& to, int32_t count) {
    if (count == 0) return;
    SetWait<HardEvent::V_MTE3>();
    SetAtomicAdd<int32_t>();
    DataCopyPad(to, out_, Words(count));
    SetAtomicNone();
    SetWait<HardEvent::MTE3_V>();
  }

  static constexpr int32_t kNoKey = -2;

  const SortUniqueTiling tiling_;
  const bool wants_begins_;
  GlobalTensor<int32_t> keys_, counts_, unique_, begins_, total_;
  LocalTensor<int32_t> key_, before_, differs_, scratch_, numbers_, out_, counts_in_ub_;
  LocalTensor<uint8_t> first_;
};

}  // namespace
}  // namespace mxd::kernels

// counts int32 [blocks, 8]: how many keys of each block's share of keys int32 [words, pitch] differ
// from the one before.
extern "C" __global__ __aicore__ void sort_unique_count(GM_ADDR keys, GM_ADDR counts,
                                                        SortUniqueTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::SortUnique<false>>(tiling, keys, counts, nullptr, nullptr,
                                                           nullptr);
}

// Adds those keys to unique int32 [words, out_pitch] and where they begin to begins int32 [count]
// (null: not asked for), which must hold zeros, and their number to total int32 [1]. As many blocks
// as counted.
extern "C" __global__ __aicore__ void sort_unique(GM_ADDR keys, GM_ADDR counts, GM_ADDR unique,
                                                  GM_ADDR begins, GM_ADDR total,
                                                  SortUniqueTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::SortUnique<true>>(tiling, keys, counts, unique, begins,
                                                          total);
}
