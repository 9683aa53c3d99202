// Rows in the slots of voxels back to points. A row is short, and a DMA costs the same for a short
// one as for half a kilobyte. So only filled slots cost a DMA, and rows that lie at equal distances
// share one, as those of a voxel do, whose rows ascend; between aligned rows in UB and the slots,
// that follow each other without a gap, words are gathered in lanes.
//
// Nothing is computed: a number is moved as bits, of 2 or 4 bytes.
#include "common/buffers.h"
#include "common/events.h"
#include "common/filled_slots.h"
#include "common/integer_lanes.h"
#include "common/matrix_rows.h"
#include "common/run.h"
#include "voxelize_tiling.h"

namespace mxd::kernels {
namespace {

// What both directions share: the filled slots of a batch.
template <typename T>
class VoxelizeRows {
 protected:
  static constexpr int32_t kBytes = sizeof(T);
  static constexpr int32_t kElements = kBlockBytes / kBytes;
  static constexpr int32_t kUsedBytes =
      (5 * kVoxelizeElements + 3 * kVoxelizeSlots) * kWord + FilledSlots<kVoxelizeSlots>::kBytes;

 public:
  __aicore__ inline VoxelizeRows(TPipe& pipe, const VoxelizeScatterTiling& tiling, GM_ADDR slots)
      : tiling_(tiling),
        pitch_(RoundUp(tiling.width, kElements)),
        lanes_(pipe, kVoxelizeElements),
        numbers_(Take<int32_t>(pipe, kVoxelizeSlots)),
        filled_(pipe) {
    Bind(slots_, slots);
    Take(pipe, kVoxelizeSlots, scratch_, row_);
    Take(pipe, kVoxelizeElements, group_, column_, offset_);
    CreateVecIndex(numbers_, 0, kVoxelizeSlots);
    Duplicate(row_, 0, kVoxelizeSlots);  // it is read two numbers at a time
    PipeBarrier<PIPE_V>();
  }

 protected:
  // Calls body(begin, count, first channel, channels, elements of a row in lanes) for each batch of
  // slots. Lane i is element i % columns of row i / columns; both in bytes, the row as a word of a
  // list. A slice of the channels is padded, all of them follow each other unless `pad`.
  //
  // Voxels with many points come together, mostly first: blocks take turns, so that each has its
  // share of them. The rows of a turn are whole blocks of 32 bytes.
  template <typename Body>
  __aicore__ inline void ForEachBatch(bool pad, const Body& body) {
    int32_t divided = 0;
    for (int32_t first = 0; first < tiling_.channels; first += tiling_.width) {
      const int32_t width = MinOf(tiling_.width, tiling_.channels - first);
      const int32_t columns = pad || width < tiling_.channels ? RoundUp(width, kElements) : width;
      if (columns != divided) DivideLanes(columns, width, first == 0);
      divided = columns;
      const int32_t part = RoundUp(tiling_.batch, kElements);
      const int64_t step = static_cast<int64_t>(GetBlockNum()) * part;
      for (int64_t at = GetBlockIdx() * static_cast<int64_t>(part); at < tiling_.slots;
           at += step) {
        const auto left = static_cast<int32_t>(tiling_.slots - at);
        for (int32_t done = 0; done < MinOf(part, left); done += tiling_.batch)
          body(static_cast<int32_t>(at) + done, MinOf(tiling_.batch, MinOf(part, left) - done),
               first, width, columns);
      }
    }
  }

  __aicore__ inline void DivideLanes(int32_t columns, int32_t width, bool first) {
    const int32_t count = tiling_.batch * columns;
    const float inverse = !first              ? tiling_.inverse_last
                          : columns == pitch_ ? tiling_.inverse_pitch
                                              : tiling_.inverse_width;
    SetWait<HardEvent::V_S>();
    CreateVecIndex(column_, 0, count);
    PipeBarrier<PIPE_V>();
    lanes_.Divide(group_, column_, columns, inverse, count);
    Muls(group_, group_, kWord, count);
    Mins(column_, column_, width - 1, count);
    PipeBarrier<PIPE_V>();
    Muls(column_, column_, kBytes, count);
    PipeBarrier<PIPE_V>();
  }

  // Finds the filled slots and row_, the rows that they name. How many.
  __aicore__ inline int32_t Load(int32_t begin, int32_t count) {
    filled_.Fetch(slots_[begin], count);
    filled_.Find(count, tiling_.points);
    SetWait<HardEvent::S_V>();  // the scalar unit has read the last rows
    return filled_.Rows(row_, count);
  }

  // Calls body(number of the first row in UB, run of rows in global memory).
  template <typename Body>
  __aicore__ inline void ForEachRow(int32_t count, const Body& body) {
    SetWait<HardEvent::V_S>();
    ForEachRun(row_, 0, count, tiling_.farthest, body);
  }

  __aicore__ inline uint32_t Skip(const Run& run, int32_t width) const {
    return static_cast<uint32_t>((static_cast<int64_t>(run.gap) * tiling_.channels - width) *
                                 kBytes);
  }

  const VoxelizeScatterTiling tiling_;
  const int32_t pitch_;
  IntegerLanes lanes_;
  LocalTensor<int32_t> numbers_;
  FilledSlots<kVoxelizeSlots> filled_;
  GlobalTensor<int32_t> slots_;
  LocalTensor<int32_t> scratch_, row_, group_, column_, offset_;
};

// Adds to zeros, as two blocks may write into the same 32 bytes: integers, whose sums are exact.
template <typename T>
class VoxelizeScatter : public VoxelizeRows<T> {
  using Base = VoxelizeRows<T>;
  using Base::kBytes, Base::kElements, Base::tiling_, Base::pitch_, Base::scratch_, Base::group_,
      Base::column_, Base::offset_;
  static_assert(Base::kUsedBytes + 2 * kVoxelizeElements * kBytes <= kUbBytes);

 public:
  __aicore__ inline VoxelizeScatter(TPipe& pipe, const VoxelizeScatterTiling& tiling,
                                    GM_ADDR voxels, GM_ADDR slots, GM_ADDR points)
      : Base(pipe, tiling, slots) {
    Bind(voxels_, voxels, points_, points);
    Take(pipe, kVoxelizeElements, in_, rows_);
  }

  __aicore__ inline void Process() {
    SetAtomicAdd<T>();
    this->ForEachBatch(
        true, [&](int32_t begin, int32_t count, int32_t first, int32_t width, int32_t columns)
                  __aicore__ { ProcessSlots(begin, count, first, width, columns); });
    SetAtomicNone();
  }

 private:
  __aicore__ inline void ProcessSlots(int32_t begin, int32_t count, int32_t first, int32_t width,
                                      int32_t columns) {
    const int32_t filled = this->Load(begin, count);
    if (filled == 0) return;
    const bool all = width == tiling_.channels;
    DataCopyPad(in_, voxels_[static_cast<int64_t>(begin) * tiling_.channels + first],
                {static_cast<uint16_t>(all ? 1 : count),
                 static_cast<uint32_t>((all ? count * width : width) * kBytes),
                 static_cast<uint32_t>(all ? 0 : (tiling_.channels - width) * kBytes), 0, 0},
                {false, 0, 0, T{}});
    this->filled_.Compact(scratch_, this->numbers_, count);
    Muls(scratch_, scratch_, (all ? width : columns) * kBytes, filled);
    PipeBarrier<PIPE_V>();
    const int32_t lanes = filled * columns;
    Gather(offset_, scratch_, group_.template ReinterpretCast<uint32_t>(), 0, lanes);
    PipeBarrier<PIPE_V>();
    Add(offset_, offset_, column_, lanes);
    SetWait<HardEvent::MTE2_V>();
    SetWait<HardEvent::MTE3_V>();
    PipeBarrier<PIPE_V>();
    Gather(rows_, in_, offset_.template ReinterpretCast<uint32_t>(), 0, lanes);
    SetWait<HardEvent::V_MTE3>();
    this->ForEachRow(filled, [&](int32_t at, const Run& run) __aicore__ {
      DataCopyPad(points_[static_cast<int64_t>(run.first) * tiling_.channels + first],
                  rows_[at * columns],
                  {static_cast<uint16_t>(run.count), static_cast<uint32_t>(width * kBytes), 0,
                   this->Skip(run, width), 0});
    });
  }

  GlobalTensor<T> voxels_, points_;
  LocalTensor<T> in_, rows_;
};

}  // namespace
}  // namespace mxd::kernels

// Adds rows of voxels to those rows of points, which must be zeros.
extern "C" __global__ __aicore__ void voxelize_scatter(GM_ADDR voxels, GM_ADDR slots,
                                                       GM_ADDR points,
                                                       VoxelizeScatterTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunForSize<mxd::kernels::VoxelizeScatter>(tiling, voxels, slots, points);
}
