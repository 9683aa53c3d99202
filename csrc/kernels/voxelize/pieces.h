// Pieces of sorted lists in global memory, one behind the other in UB.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "kernel_operator.h"
#include "places.h"

namespace mxd::kernels {

using namespace AscendC;

// Lists of `planes` words each, a list `pitch` words behind the one before, a plane `plane` words.
struct Lists {
  int32_t planes;
  int64_t plane, pitch;
};

// Loads [from, to) of a list to word `at` of each plane in UB, `capacity` words apart, and pads it
// to whole blocks of 32 bytes. Returns where the next piece begins, or -1 if this one does not fit.
__aicore__ inline int32_t LoadPiece(const LocalTensor<int32_t>& ub, int32_t at, int32_t capacity,
                                    const GlobalTensor<int32_t>& lists, const Lists& shape,
                                    int32_t list, int32_t from, int32_t to) {
  const int32_t count = to - from, padded = RoundUp(count, kBlockWords);
  if (count <= 0) return at;
  if (at + padded >= capacity) return -1;
  DataCopyPad(ub[at], lists[list * shape.pitch + from],
              {static_cast<uint16_t>(shape.planes), static_cast<uint32_t>(count * kWord),
               static_cast<uint32_t>((shape.plane - count) * kWord),
               static_cast<uint32_t>((capacity - padded) / kBlockWords), 0},
              {true, 0, static_cast<uint8_t>(padded - count), kPadScore});
  return at + padded;
}

// Fills the first plane up to whole 32s with pads.
__aicore__ inline void PadPieces(const LocalTensor<int32_t>& ub, int32_t count) {
  const int32_t whole = RoundUp(count, 32);
  if (whole == count) return;
  Duplicate(ub[count], kPadScore, whole - count);
  PipeBarrier<PIPE_V>();
}

}  // namespace mxd::kernels
