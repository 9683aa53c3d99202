// Work sharing for the CPU kernels, over ATen's own thread pool.
#pragma once

#include <ATen/Parallel.h>

#include <atomic>
#include <cstdint>

namespace mxd::cpu {

// Calls body(unit, worker) once for each unit in [0, units). Workers take the next unit as they
// finish the last, so uneven units balance; which worker does a unit is not fixed, so a unit must
// write nothing that another one writes.
template <typename Body>
void for_each_unit(int64_t units, const Body& body) {
  const int64_t workers = std::min<int64_t>(units, at::get_num_threads());
  std::atomic<int64_t> next{0};
  at::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; worker++)
      for (int64_t unit = next++; unit < units; unit = next++) body(unit, worker);
  });
}

// Calls body(part, begin, end) for `parts` even parts of [0, count), in parallel.
template <typename Body>
void for_each_part(int64_t parts, int64_t count, const Body& body) {
  at::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; part++)
      body(part, part * count / parts, (part + 1) * count / parts);
  });
}

}  // namespace mxd::cpu
