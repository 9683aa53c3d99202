// Rows in UB gathered block by block, 32 bytes each.
#pragma once

#include "../common/events.h"
#include "../common/integer_lanes.h"

namespace mxd::kernels::segment_reduce {

class RowBlocks {
 public:
  // Of lists of at most `most` blocks.
  __aicore__ inline RowBlocks(TPipe& pipe, int32_t most)
      : most_(RoundUp(most, kLanes)),
        row_(Take<int32_t>(pipe, most_)),
        block_(Take<int32_t>(pipe, most_)) {}

  // Rows have so many blocks. `scratch` holds as many words as a list.
  __aicore__ inline void SetBlocks(int32_t blocks, const LocalTensor<float>& scratch) {
    if (blocks == blocks_) return;
    blocks_ = blocks;
    SetWait<HardEvent::V_S>();
    CreateVecIndex(row_, 0, most_);
    PipeBarrier<PIPE_V>();
    const LocalTensor<float> number = block_.ReinterpretCast<float>();
    Cast(number, row_, RoundMode::CAST_NONE, most_);
    PipeBarrier<PIPE_V>();
    DivideSmall(number, scratch, row_, blocks, most_);
    Muls(row_, row_, kWord, most_);
    Cast(block_, number, RoundMode::CAST_RINT, most_);
    PipeBarrier<PIPE_V>();
    Muls(block_, block_, kBlockBytes, most_);
    PipeBarrier<PIPE_V>();
  }

  // Where the blocks of `count` rows are that begin at the bytes `rows`: `to`, whole blocks.
  __aicore__ inline void Find(const LocalTensor<int32_t>& to, const LocalTensor<int32_t>& rows,
                              int32_t count) const {
    const int32_t words = RoundUp(count * blocks_, kBlockWords);
    AscendC::Gather(to, rows, row_.ReinterpretCast<uint32_t>(), 0, words);
    PipeBarrier<PIPE_V>();
    Add(to, to, block_, words);
    PipeBarrier<PIPE_V>();
  }

  // The blocks of `count` rows that `at` has the places of. Whole repeats are written.
  template <typename T>
  __aicore__ inline void Gather(const LocalTensor<T>& to, const LocalTensor<T>& from,
                                const LocalTensor<int32_t>& at, int32_t count) const {
    const int32_t repeats = CeilDiv(count * blocks_, kBlockWords);
    for (int32_t done = 0; done < repeats; done += kMaxRepeats)
      Gatherb(to[done * kLanes].template ReinterpretCast<uint32_t>(),
              from.template ReinterpretCast<uint32_t>(),
              at[done * kBlockWords].ReinterpretCast<uint32_t>(),
              MinOf(kMaxRepeats, repeats - done), GatherRepeatParams(1, 8));
  }

 private:
  const int32_t most_;
  LocalTensor<int32_t> row_, block_;  // of each block of a list: 4 * its row, 32 * its place there
  int32_t blocks_ = 0;
};

}  // namespace mxd::kernels::segment_reduce
