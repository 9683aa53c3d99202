// Rows of points to the slots of voxels. A row is short, and a DMA costs the same for a short one
// as for three kilobytes. So the table is cut into tiles of that size, and each tile that has a row
// of a batch is loaded once: the slots are sorted by their rows for it. From the tiles, a window of
// the table at a time, the rows are gathered in their order, and from there into the slots.
//
// Nothing is computed: a number is moved as bits, of 2 or 4 bytes.
#include "common/events.h"
#include "common/integer_lanes.h"
#include "common/run.h"
#include "voxelize/places.h"
#include "voxelize_tiling.h"

namespace mxd::kernels {
namespace {

template <typename T>
class VoxelizeGather {
  static constexpr int32_t kBytes = sizeof(T);
  static constexpr int32_t kElements = kBlockBytes / kBytes;
  static constexpr int32_t kBuffers = 2;
  static constexpr int32_t kMostRows = kVoxelizeRowBytes / kBytes;  // elements of a batch's rows
  static constexpr int32_t kLanesAtOnce = kVoxelizeGatherLanes;
  static_assert(kBuffers * kVoxelizeWindowBytes + (kMostRows + kLanesAtOnce) * kBytes +
                    (kBuffers * kLanesAtOnce * kBytes) +
                    (3 * kLanesAtOnce + 6 * kVoxelizeGatherSlots +
                     PlaceSort::Words(kVoxelizeGatherSlots)) *
                        kWord +
                    kVoxelizeGatherSlots / 8 <=
                kUbBytes);

 public:
  __aicore__ inline VoxelizeGather(TPipe& pipe, const VoxelizeGatherTiling& tiling, GM_ADDR points,
                                   GM_ADDR slots, GM_ADDR voxels)
      : tiling_(tiling),
        numbers_(TakeNumbers(pipe, kVoxelizeGatherSlots, kVoxelizeGatherSlots)),
        places_(pipe, numbers_, kVoxelizeGatherSlots),
        rows_(Take<T>(pipe, kMostRows + kLanesAtOnce)),
        mask_(Take<uint8_t>(pipe, kVoxelizeGatherSlots / 8)) {
    Bind(points_, points, slots_, slots, voxels_, voxels);
    Take(pipe, kVoxelizeGatherSlots, slot_, row_, place_, tile_, begin_);
    Take(pipe, kLanesAtOnce, group_, column_, offset_);
    for (int32_t i = 0; i < kBuffers; i++) {
      window_[i] = Take<T>(pipe, kVoxelizeWindowBytes / kBytes);
      out_[i] = Take<T>(pipe, kLanesAtOnce);
      Duplicate(window_[i], T{}, kVoxelizeWindowBytes / kBytes);
    }
    PipeBarrier<PIPE_V>();
    loaded_.Init(pipe, kBuffers);
    windows_free_.Init(pipe, kBuffers);
    outputs_free_.Init(pipe, kBuffers);
  }

  // Voxels with many points come together, mostly first: blocks take turns, so that each has its
  // share of them.
  __aicore__ inline void Process() {
    windows_free_.SetAll();
    outputs_free_.SetAll();
    const int64_t step = static_cast<int64_t>(GetBlockNum()) * tiling_.batch;
    for (first_ = 0; first_ < tiling_.channels; first_ += tiling_.width) {
      width_ = MinOf(tiling_.width, tiling_.channels - first_);
      DivideLanes();
      for (int64_t at = GetBlockIdx() * static_cast<int64_t>(tiling_.batch); at < tiling_.slots;
           at += step) {
        const auto left = tiling_.slots - at;
        const auto count = static_cast<int32_t>(left < tiling_.batch ? left : tiling_.batch);
        const int32_t filled = SortSlots(at, count);
        LoadRows(filled);
        WriteSlots(at, count);
      }
    }
    windows_free_.WaitAll();
    outputs_free_.WaitAll();
  }

 private:
  // Elements of a row behind others in UB, and of one in a window.
  __aicore__ inline int32_t columns() const {
    return width_ <= kVoxelizeNarrow && width_ == tiling_.channels ? width_
                                                                   : RoundUp(width_, kElements);
  }
  __aicore__ inline int32_t window_pitch() const {
    return tiling_.packed ? width_ : RoundUp(width_, kElements);
  }

  // So many rows are whole blocks of 32 bytes.
  __aicore__ inline int32_t row_unit() const { return columns() % kElements == 0 ? 1 : 16; }

  // Lane i is element i % columns of row i / columns; both in bytes, the row as a word of a list.
  __aicore__ inline void DivideLanes() {
    const int32_t width = columns();
    const bool whole = width % kBlockWords == 0;
    int32_t have = whole ? 1 : kBlockWords;
    at_once_ = kLanesAtOnce / width / row_unit() * row_unit();
    if (whole) {
      Adds(column_, numbers_, 0, width);
      Duplicate(group_, 0, width);
      PipeBarrier<PIPE_V>();
    } else {
      Adds(column_, numbers_, 0, have * width);
      PipeBarrier<PIPE_V>();
      IntegerLanes(places_.list(0), places_.list(1))
          .Divide(group_, column_, width, tiling_.inverse_width, have * width);
    }
    Muls(group_, group_, kWord, have * width);
    Mins(column_, column_, width_ - 1, have * width);
    PipeBarrier<PIPE_V>();
    Muls(column_, column_, kBytes, have * width);
    PipeBarrier<PIPE_V>();
    for (; have < at_once_; have *= 2) {
      const int32_t more = MinOf(have, at_once_ - have) * width;
      Adds(group_[have * width], group_, have * kWord, more);
      Adds(column_[have * width], column_, 0, more);
      PipeBarrier<PIPE_V>();
    }
  }

  // row_: the rows that are named, ascending; place_: where that of each slot is among them; tile_
  // and begin_: the tiles that they are in, and the first row of each. How many rows.
  __aicore__ inline int32_t SortSlots(int64_t begin, int32_t count) {
    const int32_t whole = RoundUp(count, kLanes), outside = tiling_.points + kKeyToScore;
    SetWait<HardEvent::V_MTE2>();
    DataCopyPad(slot_, slots_[begin], Words(count), {false, 0, 0, 0});
    SetWait<HardEvent::MTE2_V>();
    // A slot that names none is behind all: it becomes the number of points.
    const LocalTensor<int32_t> sign = places_.list(0);
    Duplicate(place_, kPadScore, whole);
    Maxs(slot_, slot_, -1, count);
    PipeBarrier<PIPE_V>();
    ShiftRight(sign, slot_, 31, count);
    PipeBarrier<PIPE_V>();
    Muls(sign, sign, -tiling_.points - 1, count);
    PipeBarrier<PIPE_V>();
    Add(slot_, slot_, sign, count);
    PipeBarrier<PIPE_V>();
    Mins(slot_, slot_, tiling_.points, count);
    PipeBarrier<PIPE_V>();
    Adds(place_, slot_, kKeyToScore, count);
    PipeBarrier<PIPE_V>();
    places_.Sort(place_, count);
    CompareScalar(mask_, places_.scores().ReinterpretCast<float>(), AsFloat(outside), CMPMODE::GT,
                  whole);
    PipeBarrier<PIPE_V>();
    const int32_t filled = Compact(row_, places_.scores(), mask_, count);
    Adds(slot_, places_.places(), 0, count);
    FindTiles(filled);
    // The places of the places: slots that name none come last.
    Duplicate(place_, kPadScore, whole);
    PipeBarrier<PIPE_V>();
    Adds(place_, slot_, kKeyToScore, count);
    PipeBarrier<PIPE_V>();
    places_.Sort(place_, count);
    Mins(place_, places_.places(), filled, count);  // they share a row of zeros
    PipeBarrier<PIPE_V>();
    Muls(place_, place_, columns() * kBytes, count);
    PipeBarrier<PIPE_V>();
    return filled;
  }

  __aicore__ inline void FindTiles(int32_t filled) {
    tiles_ = 0;
    if (filled == 0) return;
    SetWait<HardEvent::S_V>();  // the scalar unit has read the last ones
    Adds(row_, row_, -kKeyToScore, filled);
    PipeBarrier<PIPE_V>();
    ShiftRight(tile_, row_, tiling_.tile, filled);
    PipeBarrier<PIPE_V>();
    Adds(places_.scores(), tile_, kKeyToScore, filled);
    PipeBarrier<PIPE_V>();
    places_.MarkChanges(mask_, 1, filled);
    Adds(places_.list(0), tile_, 0, filled);
    PipeBarrier<PIPE_V>();
    tiles_ = Compact(tile_, places_.list(0), mask_, filled);
    Compact(begin_, numbers_, mask_, filled);
  }

  static __aicore__ inline float AsFloat(int32_t bits) {
    return *reinterpret_cast<const float*>(&bits);
  }

  // The window of the table with rows [begin, end) of the batch.
  struct Window {
    int32_t number, begin, end, buffer;
  };

  // rows_: the rows, and one of zeros. Windows come from the last to the first: each begins at a
  // whole block, and may overwrite what is before it.
  __aicore__ inline void LoadRows(int32_t filled) {
    const int32_t whole = filled / row_unit() * row_unit();
    Duplicate(rows_[whole * columns()], T{}, RoundUp((1 + row_unit()) * columns(), kElements));
    PipeBarrier<PIPE_V>();
    SetWait<HardEvent::V_S>();
    Window now{}, before{};
    bool has_before = false;
    for (int32_t tile = tiles_, end = filled; tile > 0; end = now.begin) {
      now = {Number(tile - 1), 0, end, buffer_};
      buffer_ = 1 - buffer_;
      windows_free_.Wait(now.buffer);
      for (; tile > 0 && Number(tile - 1) == now.number; tile--) LoadTile(now, tile - 1);
      now.begin = begin_.GetValue(tile);
      loaded_.Set(now.buffer);
      if (has_before) GatherRows(before);
      before = now;
      has_before = true;
    }
    if (has_before) GatherRows(before);
  }

  // The window that a tile is in.
  __aicore__ inline int32_t Number(int32_t tile) const {
    return tile_.GetValue(tile) >> (tiling_.window - tiling_.tile);
  }

  __aicore__ inline void LoadTile(const Window& window, int32_t tile) const {
    const int64_t first = static_cast<int64_t>(tile_.GetValue(tile)) << tiling_.tile;
    const int64_t left = tiling_.points - first, size = 1 << tiling_.tile;
    const auto rows = static_cast<int32_t>(left < size ? left : size);
    const auto at =
        static_cast<int32_t>(first - (static_cast<int64_t>(window.number) << tiling_.window));
    const auto bytes = static_cast<uint32_t>(width_ * kBytes);
    DataCopyPad(
        window_[window.buffer][at * window_pitch()], points_[first * tiling_.channels + first_],
        {static_cast<uint16_t>(tiling_.packed ? 1 : rows), tiling_.packed ? rows * bytes : bytes,
         static_cast<uint32_t>(tiling_.channels * kBytes) - bytes, 0, 0},
        {false, 0, 0, T{}});
  }

  __aicore__ inline void GatherRows(const Window& window) {
    loaded_.Wait(window.buffer);
    const int32_t first = window.begin / row_unit() * row_unit();
    const int64_t before = (static_cast<int64_t>(window.number) << tiling_.window);
    const int32_t base = first / kBlockWords * kBlockWords, count = window.end - base;
    Adds(slot_, row_[base], -static_cast<int32_t>(before), count);
    PipeBarrier<PIPE_V>();
    Maxs(slot_, slot_, 0, count);
    PipeBarrier<PIPE_V>();
    Muls(slot_, slot_, window_pitch() * kBytes, count);
    PipeBarrier<PIPE_V>();
    for (int32_t at = first; at < window.end; at += at_once_) {
      const int32_t rows = MinOf(at_once_, window.end - at), lanes = rows * columns();
      Gather(offset_, slot_, group_.template ReinterpretCast<uint32_t>(), (at - base) * kWord,
             lanes);
      PipeBarrier<PIPE_V>();
      Add(offset_, offset_, column_, lanes);
      PipeBarrier<PIPE_V>();
      Gather(rows_[at * columns()], window_[window.buffer],
             offset_.template ReinterpretCast<uint32_t>(), 0, lanes);
      PipeBarrier<PIPE_V>();
    }
    windows_free_.Set(window.buffer);
  }

  __aicore__ inline void WriteSlots(int64_t begin, int32_t count) {
    const bool all = columns() == tiling_.channels;
    for (int32_t at = 0; at < count; at += at_once_, output_ = 1 - output_) {
      const int32_t rows = MinOf(at_once_, count - at), lanes = rows * columns();
      Gather(offset_, place_, group_.template ReinterpretCast<uint32_t>(), at * kWord, lanes);
      PipeBarrier<PIPE_V>();
      Add(offset_, offset_, column_, lanes);
      outputs_free_.Wait(output_);
      PipeBarrier<PIPE_V>();
      Gather(out_[output_], rows_, offset_.template ReinterpretCast<uint32_t>(), 0, lanes);
      SetWait<HardEvent::V_MTE3>();
      DataCopyPad(voxels_[(begin + at) * tiling_.channels + first_], out_[output_],
                  {static_cast<uint16_t>(all ? 1 : rows),
                   static_cast<uint32_t>((all ? lanes : width_) * kBytes), 0,
                   static_cast<uint32_t>(all ? 0 : (tiling_.channels - width_) * kBytes), 0});
      outputs_free_.Set(output_);
      PipeBarrier<PIPE_V>();
    }
  }

  const VoxelizeGatherTiling tiling_;
  LocalTensor<int32_t> numbers_;
  PlaceSort places_;
  LocalTensor<int32_t> slot_, row_, place_, tile_, begin_, group_, column_, offset_;
  LocalTensor<T> rows_, window_[kBuffers], out_[kBuffers];
  LocalTensor<uint8_t> mask_;
  GlobalTensor<T> points_, voxels_;
  GlobalTensor<int32_t> slots_;
  Events<HardEvent::MTE2_V> loaded_;
  Events<HardEvent::V_MTE2> windows_free_;
  Events<HardEvent::MTE3_V> outputs_free_;
  int32_t first_ = 0, width_ = 0;  // channels that are moved now
  int32_t at_once_ = 0;            // rows of a gather
  int32_t tiles_ = 0, buffer_ = 0, output_ = 0;
};

}  // namespace
}  // namespace mxd::kernels

// voxels [slots, channels]: the rows of points [points, channels] that slots int32 [slots] name,
// zeros where none is named. Numbers of 4 bytes, or of 2.
extern "C" __global__ __aicore__ void voxelize_gather(GM_ADDR points, GM_ADDR slots, GM_ADDR voxels,
                                                      VoxelizeGatherTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunForSize<mxd::kernels::VoxelizeGather>(tiling, points, slots, voxels);
}
