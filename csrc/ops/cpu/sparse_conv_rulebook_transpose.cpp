// Exchange of a rulebook's inputs and outputs on the CPU.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <vector>

#include "rulebook.h"

namespace mxd::sparse_conv {

std::tuple<at::Tensor, at::Tensor> transpose_rulebook(const at::Tensor& pairs,
                                                      const at::Tensor& bounds, int64_t num_in) {
  check_transpose(pairs, bounds, num_in);
  const at::Tensor from_pairs = pairs.contiguous(), from_bounds = bounds.contiguous();
  check_bounds(from_pairs, from_bounds);
  const auto* from = reinterpret_cast<const Pair*>(from_pairs.const_data_ptr<int32_t>());
  const int64_t* from_bound = from_bounds.const_data_ptr<int64_t>();
  const int64_t from_tiles = bounds.size(0), volume = bounds.size(1) - 1;
  const int64_t tiles = tile_count(num_in), bins = tiles * volume;
  const int64_t parts = std::clamp<int64_t>(pairs.size(0) / 16384, 1, at::get_num_threads());

  // A counting sort by (tile of inputs, kernel point).
  std::vector<int64_t> place(parts * bins, 0);
  auto for_each_pair = [&](int64_t first_tile, int64_t last_tile, const auto& body) {
    for (int64_t t = first_tile; t < last_tile; t++)
      for (int64_t k = 0; k < volume; k++)
        for (int64_t p = from_bound[t * (volume + 1) + k]; p < from_bound[t * (volume + 1) + k + 1];
             p++)
          body(from[p], from[p].in / kTileRows * volume + k);
  };
  cpu::for_each_part(parts, from_tiles, [&](int64_t part, int64_t begin, int64_t end) {
    int64_t* histogram = place.data() + part * bins;
    for_each_pair(begin, end, [&](const Pair& pair, int64_t bin) {
      TORCH_CHECK_VALUE(pair.in >= 0 && pair.in < num_in,
                        "pairs must name input rows below num_in ", num_in, ", named ", pair.in);
      histogram[bin]++;
    });
  });

  auto out_bounds = at::empty({tiles, volume + 1}, bounds.options());
  int64_t* bound = out_bounds.mutable_data_ptr<int64_t>();
  int64_t next = 0;
  for (int64_t tile = 0; tile < tiles; tile++) {
    bound[tile * (volume + 1)] = next;
    for (int64_t k = 0; k < volume; k++) {
      for (int64_t part = 0; part < parts; part++) {
        int64_t& start = place[part * bins + tile * volume + k];
        const int64_t size = start;
        start = next;
        next += size;
      }
      bound[tile * (volume + 1) + k + 1] = next;
    }
  }
  auto out_pairs = at::empty({next, 2}, pairs.options());
  auto* to = reinterpret_cast<Pair*>(out_pairs.mutable_data_ptr<int32_t>());
  cpu::for_each_part(parts, from_tiles, [&](int64_t part, int64_t begin, int64_t end) {
    int64_t* slot = place.data() + part * bins;
    for_each_pair(begin, end,
                  [&](const Pair& pair, int64_t bin) { to[slot[bin]++] = {pair.out, pair.in}; });
  });
  return {out_pairs, out_bounds};
}

namespace {

std::tuple<at::Tensor, at::Tensor> transpose_cpu(const at::Tensor& pairs, const at::Tensor& bounds,
                                                 int64_t num_in, bool /*trusted*/) {
  return transpose_rulebook(pairs, bounds, num_in);
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, CPU, m) {
  m.impl("sparse_conv_rulebook_transpose", TORCH_FN(transpose_cpu));
}

}  // namespace mxd::sparse_conv
