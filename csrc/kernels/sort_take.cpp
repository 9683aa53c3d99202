// Rows of a table in the order of a list.
#include "common/buffers.h"
#include "common/chunks.h"
#include "common/events.h"
#include "common/integer_lanes.h"
#include "common/run.h"
#include "common/word_table.h"
#include "sort_tiling.h"

namespace mxd::kernels {
namespace {

class SortTake {
  static constexpr int32_t kLanesAtOnce = 5120;  // words of the result
  using Table = WordTable<16384>;
  static_assert((6 * kLanesAtOnce + Table::kUbWords) * kWord <= kUbBytes);

 public:
  __aicore__ inline SortTake(TPipe& pipe, const SortTakeTiling& tiling, GM_ADDR table, GM_ADDR list,
                             GM_ADDR out)
      : tiling_(tiling), lanes_(pipe, kLanesAtOnce), words_(pipe) {
    Bind(table_, table, list_, list, out_, out);
    Take(pipe, kLanesAtOnce, place_, sum_, offset_, listed_);
  }

  __aicore__ inline void Process() {
    // Whole rows, of whole blocks of 32 bytes.
    const int32_t rows_at_once = kLanesAtOnce / tiling_.columns / kBlockWords * kBlockWords;
    ForEachChunk(tiling_.count, rows_at_once,
                 [&](int32_t begin, int32_t rows) __aicore__ { ProcessRows(begin, rows); });
  }

 private:
  __aicore__ inline void ProcessRows(int32_t begin, int32_t rows) {
    const int32_t count = rows * tiling_.columns;
    LoadPlaces(begin, rows, count);
    words_.Look(table_, 0, tiling_.rows * tiling_.columns, place_, sum_, offset_, count);
    SetWait<HardEvent::V_MTE3>();
    DataCopyPad(out_[static_cast<int64_t>(begin) * tiling_.columns], sum_, Words(count));
    SetWait<HardEvent::MTE3_V>();
  }

  // place_: which word of the table each word of the result is.
  __aicore__ inline void LoadPlaces(int32_t begin, int32_t rows, int32_t count) {
    SetWait<HardEvent::V_MTE2>();
    DataCopyPad(listed_, list_[begin], Words(rows), {false, 0, 0, 0});
    SetWait<HardEvent::MTE2_V>();
    if (tiling_.columns == 1) {
      Adds(place_, listed_, 0, count);
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
    Gather(place_, listed_, offset_.ReinterpretCast<uint32_t>(), 0, count);
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
  Table words_;
  GlobalTensor<int32_t> table_, list_, out_;
  LocalTensor<int32_t> place_, sum_, offset_, listed_;
};

}  // namespace
}  // namespace mxd::kernels

// out int32 [count, columns]: the rows of table int32 [rows, columns] that list int32 [count]
// names.
extern "C" __global__ __aicore__ void sort_take(GM_ADDR table, GM_ADDR list, GM_ADDR out,
                                                SortTakeTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::SortTake>(tiling, table, list, out);
}
