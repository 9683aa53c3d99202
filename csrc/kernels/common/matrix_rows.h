// Rows of a matrix in global memory and in UB, where each begins at a multiple of 32 bytes.
#pragma once

#include "index_list.h"
#include "integers.h"
#include "kernel_operator.h"

namespace mxd::kernels {

using namespace AscendC;

// Calls body(place in the list, run) for the runs of its entries [begin, end), whose distance is at
// most `farthest`.
template <typename T, typename Body>
__aicore__ inline void ForEachRun(const LocalTensor<T>& list, int32_t begin, int32_t end,
                                  int32_t farthest, const Body& body) {
  Runs<T> runs(list);
  runs.Seek(begin, end);
  while (!runs.Done()) {
    const int32_t at = runs.at();
    body(at, runs.Next(end - begin, farthest));
  }
}

// A matrix of `columns` numbers a row, of which `width` are moved.
template <typename T>
class MatrixRows {
  static constexpr int32_t kSize = static_cast<int32_t>(sizeof(T));
  static constexpr int32_t kMostBytes = 1 << 30;  // between two rows of a DMA

 public:
  __aicore__ inline MatrixRows() = default;
  __aicore__ inline MatrixRows(int32_t columns, int32_t width)
      : columns_(columns),
        width_(width),
        pitch_(RoundUp(width * kSize, kBlockBytes) / kSize),
        farthest_(MaxOf(kMostBytes / (columns * kSize), 1)) {}

  // Elements of a row in UB.
  __aicore__ inline int32_t pitch() const { return pitch_; }
  // The distance of a run's rows, at most.
  __aicore__ inline int32_t farthest() const { return farthest_; }

  // The rows of a run, whose first one is at `from`.
  __aicore__ inline void Load(const LocalTensor<T>& to, const GlobalTensor<T>& from,
                              const Run& run) const {
    const DataCopyPadExtParams<T> no_padding{false, 0, 0, T{}};
    if (Follow(run))
      DataCopyPad(to, from, {1, static_cast<uint32_t>(run.count * width_ * kSize), 0, 0, 0},
                  no_padding);
    else
      DataCopyPad(to, from,
                  {static_cast<uint16_t>(run.count), static_cast<uint32_t>(width_ * kSize),
                   Skip(run), 0, 0},
                  no_padding);
  }
  __aicore__ inline void Store(const GlobalTensor<T>& to, const LocalTensor<T>& from,
                               const Run& run) const {
    if (Follow(run))
      DataCopyPad(to, from, {1, static_cast<uint32_t>(run.count * width_ * kSize), 0, 0, 0});
    else
      DataCopyPad(to, from,
                  {static_cast<uint16_t>(run.count), static_cast<uint32_t>(width_ * kSize), 0,
                   Skip(run), 0});
  }

 private:
  // Whether rows follow each other without a gap, here and there.
  __aicore__ inline bool Follow(const Run& run) const {
    return run.gap == 1 && width_ == columns_ && width_ == pitch_;
  }
  __aicore__ inline uint32_t Skip(const Run& run) const {
    return static_cast<uint32_t>((run.gap * columns_ - width_) * kSize);
  }

  int32_t columns_ = 0, width_ = 0, pitch_ = 0, farthest_ = 0;
};

}  // namespace mxd::kernels
