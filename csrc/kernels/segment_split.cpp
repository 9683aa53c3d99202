// Where the chunks of a segment reduction begin (segment_reduce_tiling.h). Segment j's end has the
// place begins[j + 1] + j in the sequence: splits[c] is how many of these places, which ascend, are
// below c * chunk. Each block looks at pieces of the segments, and writes what lies in them.
#include "common/buffers.h"
#include "common/events.h"
#include "common/run.h"
#include "segment_reduce_tiling.h"
#include "sort/score.h"
#include "sort/search.h"

namespace mxd::kernels {
namespace {

class SegmentSplit {
  static constexpr int32_t kPiece = 2048;   // segments
  static constexpr int32_t kAtOnce = 1024;  // chunks

 public:
  __aicore__ inline SegmentSplit(TPipe& pipe, const SegmentSplitTiling& tiling, GM_ADDR begins,
                                 GM_ADDR splits)
      : tiling_(tiling),
        words_(Take<int32_t>(pipe, kPairWords * kPiece)),
        table_(Take<int32_t>(pipe, 2 * kPiece)),
        before_(Take<int32_t>(pipe, kBlockWords)),
        numbers_(Take<int32_t>(pipe, kPiece)),
        target_(Take<int32_t>(pipe, kAtOnce)),
        position_(Take<int32_t>(pipe, kAtOnce)),
        scratch_(Take<int32_t>(pipe, kAtOnce)) {
    Bind(begins_, begins, splits_, splits);
  }

  __aicore__ inline void Process() {
    CreateVecIndex(numbers_, 0, kPiece);
    PipeBarrier<PIPE_V>();
    const int32_t pieces = CeilDiv(tiling_.segments, kPiece);
    for (int32_t piece = GetBlockIdx(); piece < pieces; piece += GetBlockNum()) {
      const int32_t first = piece * kPiece;
      ProcessPiece(first, MinOf(kPiece, tiling_.segments - first));
    }
  }

 private:
  __aicore__ inline void ProcessPiece(int32_t first, int32_t count) {
    const int32_t power = PowerAbove(count);
    SetWait<HardEvent::V_MTE2>();
    SetWait<HardEvent::S_MTE2>();
    DataCopyPad(words_, begins_[static_cast<int64_t>(kPairWords) * (first + 1)],
                Words(kPairWords * count), {false, 0, 0, 0});
    DataCopyPad(before_, begins_[static_cast<int64_t>(kPairWords) * first], Words(kPairWords),
                {false, 0, 0, 0});
    SetWait<HardEvent::S_V>();
    Duplicate(table_, kSortPad, power);
    SetWait<HardEvent::MTE2_V>();
    PipeBarrier<PIPE_V>();
    PairWords(table_, words_, 0, count);
    PipeBarrier<PIPE_V>();
    Adds(table_, table_, first, count);
    PipeBarrier<PIPE_V>();
    Add(table_, table_, numbers_, count);
    PipeBarrier<PIPE_V>();
    SetWait<HardEvent::V_S>();
    SetWait<HardEvent::MTE2_S>();
    // The chunks that begin after the last end before this piece, up to its own last end.
    const int32_t before = before_.GetValue(0) + first - 1, last = table_.GetValue(count - 1);
    const int32_t begin = first == 0 ? 0 : before / tiling_.chunk + 1;
    const int32_t end =
        first + count == tiling_.segments ? tiling_.chunks + 1 : last / tiling_.chunk + 1;
    for (int32_t chunk = begin; chunk < end; chunk += kAtOnce)
      Write(chunk, MinOf(kAtOnce, end - chunk), first, power);
  }

  __aicore__ inline void Write(int32_t chunk, int32_t count, int32_t first, int32_t power) {
    Adds(target_, numbers_, chunk, count);
    PipeBarrier<PIPE_V>();
    Muls(target_, target_, tiling_.chunk, count);
    PipeBarrier<PIPE_V>();
    SetWait<HardEvent::MTE3_V>();
    CountBelow(position_, table_, target_, scratch_, power, count);
    ShiftRight(position_, position_, 2, count);
    PipeBarrier<PIPE_V>();
    Adds(position_, position_, first, count);
    SetWait<HardEvent::V_MTE3>();
    SetAtomicAdd<int32_t>();
    DataCopyPad(splits_[chunk], position_, Words(count));
    SetAtomicNone();
  }

  const SegmentSplitTiling tiling_;
  GlobalTensor<int32_t> begins_, splits_;
  LocalTensor<int32_t> words_, table_, before_, numbers_, target_, position_, scratch_;
};

}  // namespace
}  // namespace mxd::kernels

// Adds to splits int32 [chunks + 1], which must hold zeros, of begins int64 [segments + 1].
extern "C" __global__ __aicore__ void segment_split(GM_ADDR begins, GM_ADDR splits,
                                                    SegmentSplitTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::SegmentSplit>(tiling, begins, splits);
}
