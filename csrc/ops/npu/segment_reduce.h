// Reductions of rows by segment on the vector cores. Nothing here waits for the device, and results
// are bit-identical for any number of cores.
//
// Segment s has the entries rows[begins[s] : begins[s + 1]] of a list int32 [entries] of rows of a
// matrix [.., channels] in float32, float16 or bfloat16; the last two are summed in float32.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <tuple>

namespace mxd::npu {

// begins int64 [segments + 1] of sorted segment numbers int32 [entries]. Numbers are at least -1,
// which is no segment, and below `segments`.
at::Tensor segment_begins(const at::Tensor& sorted, int64_t segments);

// [segments, channels]: sums, or means; 0 in a segment of no entry.
at::Tensor segment_sum(const at::Tensor& x, const at::Tensor& rows, const at::Tensor& begins,
                       bool mean = false);

// The sum of the numbers alone whose `sources`, int32 like x, are the segment's number.
at::Tensor segment_sum_where(const at::Tensor& x, const at::Tensor& sources, const at::Tensor& rows,
                             const at::Tensor& begins);

// [segments, channels]: the sum of depth[p] * context[row(p)] over the points p that `points` int32
// [entries] names, which are elements of depth [images, depths, pixels]; row(p) is the row of its
// pixel in context [images, pixels, channels].
at::Tensor segment_sum_lifted(const at::Tensor& depth, const at::Tensor& context,
                              const at::Tensor& points, const at::Tensor& begins);

// (maxima, the rows that they come from, int32); 0 and -1 in a segment of no entry. Of equal
// numbers the first counts. With `nan` a NaN is the greatest of all, the last one of several;
// without it never counts, and in a segment of nothing else the maximum is minus infinity, of its
// first row.
std::tuple<at::Tensor, at::Tensor> segment_max(const at::Tensor& x, const at::Tensor& rows,
                                               const at::Tensor& begins, bool nan);

// [entries, channels]: the rows of `matrix` in the order of `list` int32 [entries], 0 where it has
// -1.
at::Tensor gather_rows(const at::Tensor& matrix, const at::Tensor& list);

}  // namespace mxd::npu
