// What the CPU kernels over a rulebook share. Its layout is told in ../sparse_conv.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <atomic>
#include <tuple>

#include "../sparse_conv.h"
#include "parallel.h"

namespace mxd::sparse_conv {

struct Rulebook {
  const Pair* pairs;
  const int64_t* bounds;
  int64_t tiles, volume;

  Rulebook(const at::Tensor& pairs_, const at::Tensor& bounds_)
      : pairs(reinterpret_cast<const Pair*>(pairs_.const_data_ptr<int32_t>())),
        bounds(bounds_.const_data_ptr<int64_t>()),
        tiles(bounds_.size(0)),
        volume(bounds_.size(1) - 1) {}
  const Pair* begin(int64_t tile, int64_t k) const {
    return pairs + bounds[tile * (volume + 1) + k];
  }
  const Pair* end(int64_t tile, int64_t k) const {
    return pairs + bounds[tile * (volume + 1) + k + 1];
  }
  // The offset that pairs every row of a tile of `rows` rows, or -1.
  int64_t whole_offset(int64_t tile, int64_t rows) const {
    for (int64_t k = 0; k < volume; k++)
      if (end(tile, k) - begin(tile, k) == rows) return k;
    return -1;
  }
};

// Refuses bounds that name pairs that are not there. Both are contiguous.
inline void check_bounds(const at::Tensor& pairs, const at::Tensor& bounds) {
  const int64_t *bound = bounds.const_data_ptr<int64_t>(), *bound_end = bound + bounds.numel();
  TORCH_CHECK_VALUE(std::is_sorted(bound, bound_end) &&
                        (bound == bound_end || (bound[0] == 0 && bound_end[-1] == pairs.size(0))),
                    "bounds must ascend from 0 to the number of pairs, ", pairs.size(0));
}

// Refuses a rulebook with rows that the tensors do not have: the kernels read and write what it
// says.
inline void check_rows(const at::Tensor& pairs, const at::Tensor& bounds, int64_t num_in,
                       int64_t num_out) {
  check_tiles(bounds, num_out);
  check_bounds(pairs, bounds);
  const auto* pair = reinterpret_cast<const Pair*>(pairs.const_data_ptr<int32_t>());
  std::atomic<bool> inside{true};
  at::parallel_for(0, pairs.size(0), 65536, [&](int64_t begin, int64_t end) {
    bool good = true;
    for (int64_t p = begin; p < end; p++)
      good &= static_cast<uint32_t>(pair[p].in) < num_in &&
              static_cast<uint32_t>(pair[p].out) < num_out;
    if (!good) inside = false;
  });
  TORCH_CHECK_VALUE(inside, "pairs must name input rows below ", num_in, " and output rows below ",
                    num_out, ", and some do not");
}

// A rulebook of which every row is there, and the memory that holds it.
class CheckedRulebook {
 public:
  CheckedRulebook(const at::Tensor& pairs, const at::Tensor& bounds, int64_t num_in,
                  int64_t num_out)
      : pairs_(pairs.contiguous()), bounds_(bounds.contiguous()) {
    check_rows(pairs_, bounds_, num_in, num_out);
  }
  Rulebook view() const { return Rulebook(pairs_, bounds_); }

 private:
  const at::Tensor pairs_, bounds_;
};

// The same pairs with input and output exchanged, grouped by tiles of input rows.
std::tuple<at::Tensor, at::Tensor> transpose_rulebook(const at::Tensor& pairs,
                                                      const at::Tensor& bounds, int64_t num_in);

}  // namespace mxd::sparse_conv
