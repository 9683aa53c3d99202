// Rows of a table in the order of a list. The table streams through UB, and each word of the result
// is taken from the part that has it: a gather from UB costs a cycle for 64 words, one from global
// memory a DMA a row.
#include "common/buffers.h"
#include "common/events.h"
#include "common/integer_lanes.h"
#include "sort_tiling.h"

namespace mxd::kernels {
namespace {

class SortTake {
  static constexpr int32_t kLanesAtOnce = 5120;  // words of the result
  static constexpr int32_t kPart = 16384;  // words of the table, with a zero before and behind
  static_assert((6 * kLanesAtOnce + kPart + 2 * kBlockWords) * kWord <= kUbBytes);

 public:
  __aicore__ inline SortTake(TPipe& pipe, const SortTakeTiling& tiling, GM_ADDR table, GM_ADDR list,
                             GM_ADDR out)
      : tiling_(tiling), lanes_(pipe, kLanesAtOnce) {
    table_.SetGlobalBuffer((__gm__ int32_t*)table);
    list_.SetGlobalBuffer((__gm__ int32_t*)list);
    out_.SetGlobalBuffer((__gm__ int32_t*)out);
    part_ = Take<int32_t>(pipe, kPart + 2 * kBlockWords);
    place_ = Take<int32_t>(pipe, kLanesAtOnce);
    sum_ = Take<int32_t>(pipe, kLanesAtOnce);
    offset_ = Take<int32_t>(pipe, kLanesAtOnce);
    taken_ = Take<int32_t>(pipe, kLanesAtOnce);
  }

  __aicore__ inline void Process() {
    Duplicate(part_, 0, kBlockWords);
    // Whole rows, of whole blocks of 32 bytes.
    const int32_t rows_at_once = kLanesAtOnce / tiling_.columns / kBlockWords * kBlockWords;
    const int64_t share =
        RoundUp(CeilDiv(tiling_.count, static_cast<int32_t>(GetBlockNum())), kBlockWords);
    const int64_t first = GetBlockIdx() * share;
    const int64_t end = first + share < tiling_.count ? first + share : tiling_.count;
    for (int64_t begin = first; begin < end; begin += rows_at_once)
      ProcessRows(begin,
                  static_cast<int32_t>(end - begin < rows_at_once ? end - begin : rows_at_once));
  }

 private:
  __aicore__ inline void ProcessRows(int64_t begin, int32_t rows) {
    const int32_t count = rows * tiling_.columns;
    LoadPlaces(begin, rows, count);
    Duplicate(sum_, 0, count);
    const int32_t words = tiling_.rows * tiling_.columns;
    for (int32_t at = 0; at < words; at += kPart) {
      const int32_t size = MinOf(kPart, words - at);
      SetWait<HardEvent::V_MTE2>();
      const int32_t padding = RoundUp(size, kBlockWords) - size;
      DataCopyPad(part_[kBlockWords], table_[at], Words(size),
                  {true, 0, static_cast<uint8_t>(padding), 0});
      Adds(offset_, place_, 1 - at, count);
      PipeBarrier<PIPE_V>();
      Maxs(offset_, offset_, 0, count);  // of the zero before
      PipeBarrier<PIPE_V>();
      Mins(offset_, offset_, size + 1, count);  // of the zero behind
      PipeBarrier<PIPE_V>();
      Muls(offset_, offset_, kWord, count);
      SetWait<HardEvent::MTE2_V>();
      if (padding == 0) Duplicate(part_[kBlockWords + size], 0, kBlockWords);
      PipeBarrier<PIPE_V>();
      Gather(taken_, part_, offset_.ReinterpretCast<uint32_t>(), (kBlockWords - 1) * kWord, count);
      PipeBarrier<PIPE_V>();
      Add(sum_, sum_, taken_, count);
      PipeBarrier<PIPE_V>();
    }
    SetWait<HardEvent::V_MTE3>();
    DataCopyPad(out_[begin * tiling_.columns], sum_, Words(count));
    SetWait<HardEvent::MTE3_V>();
  }

  // place_: which word of the table each word of the result is.
  __aicore__ inline void LoadPlaces(int64_t begin, int32_t rows, int32_t count) {
    SetWait<HardEvent::V_MTE2>();
    DataCopyPad(taken_, list_[begin], Words(rows), {false, 0, 0, 0});
    SetWait<HardEvent::MTE2_V>();
    if (tiling_.columns == 1) {
      Adds(place_, taken_, 0, count);
      PipeBarrier<PIPE_V>();
      return;
    }
    // Word i is column i % columns of row i / columns.
    CreateNumbers(sum_, count);
    lanes_.Divide(offset_, sum_, tiling_.columns, tiling_.inverse_columns, count);
    Muls(offset_, offset_, kWord, count);
    if (tiling_.flip) {
      Muls(sum_, sum_, -1, count);
      PipeBarrier<PIPE_V>();
      Adds(sum_, sum_, tiling_.columns - 1, count);
    }
    PipeBarrier<PIPE_V>();
    Gather(place_, taken_, offset_.ReinterpretCast<uint32_t>(), 0, count);
    PipeBarrier<PIPE_V>();
    Muls(place_, place_, tiling_.columns, count);
    PipeBarrier<PIPE_V>();
    Add(place_, place_, sum_, count);
    PipeBarrier<PIPE_V>();
  }

  // 0, 1, 2 ...; its first words are written by the scalar unit.
  __aicore__ inline void CreateNumbers(const LocalTensor<int32_t>& to, int32_t count) {
    SetWait<HardEvent::V_S>();
    SetWait<HardEvent::MTE3_S>();
    CreateVecIndex(to, 0, count);
    PipeBarrier<PIPE_V>();
  }

  const SortTakeTiling tiling_;
  IntegerLanes lanes_;
  GlobalTensor<int32_t> table_, list_, out_;
  LocalTensor<int32_t> part_, place_, sum_, offset_, taken_;
};

}  // namespace
}  // namespace mxd::kernels

// out int32 [count, columns]: the rows of table int32 [rows, columns] that list int32 [count]
// names.
extern "C" __global__ __aicore__ void sort_take(GM_ADDR table, GM_ADDR list, GM_ADDR out,
                                                SortTakeTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  AscendC::TPipe pipe;
  mxd::kernels::SortTake(pipe, tiling, table, list, out).Process();
}
