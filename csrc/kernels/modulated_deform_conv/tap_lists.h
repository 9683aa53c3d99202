// A vector core's way through the batches: two lists of taps, of which one is made while the other
// is in use.
#pragma once

#include "../common/integers.h"
#include "kernel_operator.h"
#include "schedule.h"

namespace mxd::kernels::modulated_deform_conv {

// Positions of a unit.
struct Span {
  int32_t first, count;
};

// What this vector core takes of a unit: one half of the tile.
__aicore__ inline Span SpanOf(const ModulatedDeformConvTiling& tiling, const Unit& unit) {
  const int32_t most = tiling.tile / 2, begin = static_cast<int32_t>(GetSubBlockIdx()) * most;
  return {unit.first + begin, MaxOf(0, MinOf(most, unit.count - begin))};
}

template <typename Units, typename Taps>
__aicore__ inline void MakeList(const ModulatedDeformConvTiling& tiling,
                                const Batches<Units>& batches, Taps& taps, int32_t list) {
  if (batches.Done()) return;
  const Span span = SpanOf(tiling, batches.Get().unit);
  if (span.count > 0) taps.Make(list, batches.Get(), span.first, span.count);
}

// Calls body(batch, span, list) for each batch of this block, with the list of its taps.
// `list_taps`: taps of a list, at most.
template <typename Units, typename Taps, typename Body>
__aicore__ inline void ForEachBatch(const ModulatedDeformConvTiling& tiling, int32_t list_taps,
                                    Taps& taps, const Body& body) {
  Batches<Units> batches(tiling, static_cast<int32_t>(GetBlockIdx() / 2), list_taps);
  int32_t list = 0;
  MakeList(tiling, batches, taps, list);
  while (!batches.Done()) {
    const Batch batch = batches.Get();
    const Span span = SpanOf(tiling, batch.unit);
    if (span.count > 0) taps.WaitFor(list);
    batches.Next();
    MakeList(tiling, batches, taps, 1 - list);
    body(batch, span, list);
    list = 1 - list;
  }
}

}  // namespace mxd::kernels::modulated_deform_conv
