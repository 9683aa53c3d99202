// Runs of equal keys in a sorted list, of whatever length: each position is told the row of its
// run's first key, or the run's number. A first pass leaves what each block's share ends with, so
// that the second one knows what its share begins in.
#include "common/buffers.h"
#include "common/events.h"
#include "common/run.h"
#include "sort/differ.h"
#include "voxelize/scan.h"
#include "voxelize_tiling.h"

namespace mxd::kernels {
namespace {

template <bool kNumber, bool kWrite>
class VoxelizeRuns {
  static constexpr int32_t kMaxBlocks = 64;
  static constexpr int32_t kNoKey = -2;
  static_assert((6 * kSortChunk + kBlockWords * (kMaxBlocks + 1)) * kWord +
                    Scan<kSortChunk>::kBytes <=
                kUbBytes);

 public:
  __aicore__ inline VoxelizeRuns(TPipe& pipe, const VoxelizeRunsTiling& tiling, GM_ADDR keys,
                                 GM_ADDR rows, GM_ADDR ends, GM_ADDR out, GM_ADDR inside)
      : tiling_(tiling), numbers_(Numbers(pipe)), scan_(pipe, numbers_) {
    Bind(keys_, keys, rows_, rows, ends_, ends, out_, out, inside_, inside);
    Take(pipe, kSortChunk, key_, before_, differs_, some_);
    row_ = Take<int32_t>(pipe, kSortChunk + kBlockWords);
    ends_in_ub_ = Take<int32_t>(pipe, kBlockWords * kMaxBlocks);
  }

  __aicore__ inline void Process() {
    const int64_t share =
        RoundUp(CeilDiv(tiling_.count, static_cast<int32_t>(GetBlockNum())), kBlockWords);
    const int64_t first = GetBlockIdx() * share;
    const int64_t end = first + share < tiling_.count ? first + share : tiling_.count;
    int32_t carry = kWrite ? Before() : kNumber ? 0 : -1;
    for (int64_t begin = first; begin < end; begin += kSortChunk)
      carry = ProcessChunk(
          begin, static_cast<int32_t>(end - begin < kSortChunk ? end - begin : kSortChunk), carry);
    if constexpr (!kWrite) {
      Send(ends_[GetBlockIdx() * kBlockWords], carry, kBlockWords);
      if constexpr (!kNumber) {
        SetAtomicAdd<int32_t>();
        Send(inside_, found_, 1);
        SetAtomicNone();
      }
    }
  }

 private:
  __aicore__ inline LocalTensor<int32_t> Numbers(TPipe& pipe) {
    const LocalTensor<int32_t> numbers = Take<int32_t>(pipe, kSortChunk);
    CreateVecIndex(numbers, 0, kSortChunk);
    PipeBarrier<PIPE_V>();
    return numbers;
  }

  __aicore__ inline void Send(const GlobalTensor<int32_t>& to, int32_t value, int32_t count) {
    SetWait<HardEvent::MTE3_V>();
    Duplicate(key_, value, kBlockWords);
    SetWait<HardEvent::V_MTE3>();
    DataCopyPad(to, key_, Words(count));
  }

  // What the blocks before end with: how many runs, or the row of the last one.
  __aicore__ inline int32_t Before() {
    const auto blocks = static_cast<int32_t>(GetBlockIdx());
    int32_t before = kNumber ? 0 : -1;
    if (blocks == 0) return before;
    DataCopyPad(ends_in_ub_, ends_, Words(blocks * kBlockWords), {false, 0, 0, 0});
    SetWait<HardEvent::MTE2_S>();
    for (int32_t block = 0; block < blocks; block++) {
      const int32_t end = ends_in_ub_.GetValue(block * kBlockWords);
      if (kNumber)
        before += end;
      else if (end >= 0)
        before = end;
    }
    return before;
  }

  __aicore__ inline int32_t ProcessChunk(int64_t begin, int32_t count, int32_t carry) {
    FindHeads(begin, count);
    SetWait<HardEvent::MTE3_V>();
    if constexpr (kNumber) {
      scan_.template Run<true>(differs_, count);
      const int32_t found = Last(differs_, count);
      if constexpr (kWrite) {
        Adds(key_, differs_, carry - 1, count);
        // -1 outside, and from the limit on: by what is below 0 there.
        Muls(before_, differs_, -1, count);
        PipeBarrier<PIPE_V>();
        Adds(before_, before_, tiling_.limit - carry, count);
        Adds(some_, some_, -1, count);
        PipeBarrier<PIPE_V>();
        Min(before_, before_, some_, count);
        PipeBarrier<PIPE_V>();
        ShiftRight(before_, before_, 31, count);
        PipeBarrier<PIPE_V>();
        Or(key_.ReinterpretCast<uint16_t>(), key_.ReinterpretCast<uint16_t>(),
           before_.ReinterpretCast<uint16_t>(), 2 * count);
        Write(begin, count);
      }
      return carry + found;
    } else {
      // Where the run's head is: 0 is the one before the chunk, i + 1 that of lane i.
      Adds(before_, numbers_, 1, count);
      PipeBarrier<PIPE_V>();
      Mul(differs_, differs_, before_, count);
      PipeBarrier<PIPE_V>();
      scan_.template Run<false>(differs_, count);
      Adds(differs_, differs_, kBlockWords - 1, count);
      PipeBarrier<PIPE_V>();
      Muls(differs_, differs_, kWord, count);
      Duplicate(row_, carry, kBlockWords);
      PipeBarrier<PIPE_V>();
      Gather(key_, row_, differs_.ReinterpretCast<uint32_t>(), 0, count);
      PipeBarrier<PIPE_V>();
      const int32_t last = Last(key_, count);
      if constexpr (kWrite) {
        Muls(some_, some_, -1, count);
        PipeBarrier<PIPE_V>();
        Adds(some_, some_, 1, count);
        PipeBarrier<PIPE_V>();
        Muls(some_, some_, kVoxelizeOutside, count);
        PipeBarrier<PIPE_V>();
        Max(key_, key_, some_, count);
        Write(begin, count);
      } else {
        scan_.template Run<true>(some_, count);
        found_ += Last(some_, count);
      }
      return last;
    }
  }

  // differs_: 1 where a key differs from the one before, and is one; some_: where it is one.
  __aicore__ inline void FindHeads(int64_t begin, int32_t count) {
    Duplicate(differs_, 0, count);
    for (int32_t word = 0; word < tiling_.words; word++) {
      const GlobalTensor<int32_t> keys = keys_[static_cast<int64_t>(word) * tiling_.pitch];
      SetWait<HardEvent::V_MTE2>();
      SetWait<HardEvent::MTE3_MTE2>();
      DataCopyPad(key_, keys[begin], Words(count), {false, 0, 0, 0});
      if (word == 0 && !kNumber)
        DataCopyPad(row_[kBlockWords], rows_[begin], Words(count), {false, 0, 0, 0});
      if (begin > 0) {
        DataCopyPad(before_, keys[begin - 1], Words(count), {false, 0, 0, 0});
      } else if (count > 1) {
        DataCopyPad(before_, keys, Words(count - 1), {true, 1, 0, kNoKey});
      } else {
        Duplicate(before_, kNoKey, kBlockWords);
      }
      SetWait<HardEvent::MTE2_V>();
      PipeBarrier<PIPE_V>();
      if (word == 0) {
        Muls(some_, key_, -1, count);
        PipeBarrier<PIPE_V>();
        Adds(some_, some_, kVoxelizeOutside, count);
        PipeBarrier<PIPE_V>();
        Mins(some_, some_, 1, count);
      }
      MarkDifferent(differs_, key_, before_, key_, count);
    }
    Min(differs_, differs_, some_, count);
    PipeBarrier<PIPE_V>();
  }

  __aicore__ inline int32_t Last(const LocalTensor<int32_t>& lanes, int32_t count) {
    SetWait<HardEvent::V_S>();
    const int32_t last = lanes.GetValue(count - 1);
    SetWait<HardEvent::S_V>();
    return last;
  }

  __aicore__ inline void Write(int64_t begin, int32_t count) {
    SetWait<HardEvent::V_MTE3>();
    DataCopyPad(out_[begin], key_, Words(count));
  }

  const VoxelizeRunsTiling tiling_;
  LocalTensor<int32_t> numbers_;
  Scan<kSortChunk> scan_;
  GlobalTensor<int32_t> keys_, rows_, ends_, out_, inside_;
  LocalTensor<int32_t> key_, before_, differs_, some_, row_, ends_in_ub_;
  int32_t found_ = 0;
};

}  // namespace
}  // namespace mxd::kernels

// ends int32 [blocks, 8]: the row of the last run's head in each block's share of keys int32
// [words, pitch], or -1; the number of keys that are no kVoxelizeOutside is added to inside
// int32 [1].
extern "C" __global__ __aicore__ void voxelize_leaders_count(GM_ADDR keys, GM_ADDR rows,
                                                             GM_ADDR ends, GM_ADDR inside,
                                                             VoxelizeRunsTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::VoxelizeRuns<false, false>>(tiling, keys, rows, ends,
                                                                    nullptr, inside);
}

// leaders int32 [count]: the row of each run's head, kVoxelizeOutside outside. As many blocks as
// counted.
extern "C" __global__ __aicore__ void voxelize_leaders(GM_ADDR keys, GM_ADDR rows, GM_ADDR ends,
                                                       GM_ADDR leaders, VoxelizeRunsTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::VoxelizeRuns<false, true>>(tiling, keys, rows, ends,
                                                                   leaders, nullptr);
}

// ends int32 [blocks, 8]: how many runs begin in each block's share.
extern "C" __global__ __aicore__ void voxelize_numbers_count(GM_ADDR keys, GM_ADDR ends,
                                                             VoxelizeRunsTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::VoxelizeRuns<true, false>>(tiling, keys, nullptr, ends,
                                                                   nullptr, nullptr);
}

// numbers int32 [count]: of the runs, -1 outside and from the limit on.
extern "C" __global__ __aicore__ void voxelize_numbers(GM_ADDR keys, GM_ADDR ends, GM_ADDR numbers,
                                                       VoxelizeRunsTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::VoxelizeRuns<true, true>>(tiling, keys, nullptr, ends,
                                                                  numbers, nullptr);
}
