#include "sparse_conv_rulebook_pairs.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <atomic>

#include "parallel.h"

namespace mxd::sparse_conv {
namespace {

// A pair of positions: of the input among the sorted voxels, and of the output among the windows.
struct Positions {
  int32_t in, out;
};

// The pairs of the offsets below `volume`, by tile and then by offset.
class FoundPairs {
 public:
  FoundPairs(const std::vector<uint64_t>& starts, const SortedVoxels& voxels, const Geometry& g,
             const KeySteps& steps, int64_t volume)
      : starts_(starts),
        keys_(voxels.keys),
        volume_(volume),
        columns_(g.kernel[g.ndim - 1]),
        dilation_(g.dilation[g.ndim - 1]),
        row_start_((volume + columns_ - 1) / columns_),
        workers_(at::get_num_threads()),
        places_(tile_count(starts.size())),
        ends_(places_.size() * volume) {
    for (size_t r = 0; r < row_start_.size(); r++)
      for (int64_t d = g.ndim - 2, rest = r; d >= 0; rest /= g.kernel[d], d--)
        row_start_[r] += rest % g.kernel[d] * g.dilation[d] * steps.step[d];
    cpu::for_each_unit(places_.size(), [&](int64_t tile, int64_t worker) { find(tile, worker); });
  }

  int64_t size(int64_t tile, int64_t k) const {
    return ends_[tile * volume_ + k] - (k > 0 ? ends_[tile * volume_ + k - 1] : 0);
  }
  const Positions* begin(int64_t tile, int64_t k) const {
    return workers_[places_[tile].worker].pairs.data() + places_[tile].begin +
           (k > 0 ? ends_[tile * volume_ + k - 1] : 0);
  }

 private:
  // A worker appends its tiles' pairs to a list of its own.
  struct Worker {
    std::vector<Positions> pairs, tile_pairs;
  };
  struct Place {
    int64_t worker, begin;
  };

  void find(int64_t tile, int64_t id) {
    Worker& worker = workers_[id];
    const int64_t begin = tile * kTileRows, in_count = keys_.size();
    const int64_t end = std::min<int64_t>(begin + kTileRows, starts_.size());
    worker.tile_pairs.resize(volume_ * kTileRows);
    int64_t* count = ends_.data() + tile * volume_;
    for (size_t r = 0; r < row_start_.size(); r++) {
      const int64_t first = r * columns_, columns = std::min(columns_, volume_ - first);
      const uint64_t reach = (columns - 1) * dilation_;
      const auto cursor =
          std::lower_bound(keys_.begin(), keys_.end(), starts_[begin] + row_start_[r]);
      int64_t next = cursor - keys_.begin();
      for (int64_t i = begin; i < end; i++) {
        const uint64_t from = starts_[i] + row_start_[r];
        while (next < in_count && keys_[next] < from) next++;
        for (int64_t q = next; q < in_count && keys_[q] <= from + reach; q++) {
          const uint64_t offset = keys_[q] - from;
          if (dilation_ != 1 && offset % dilation_) continue;
          const int64_t k = first + (dilation_ == 1 ? offset : offset / dilation_);
          worker.tile_pairs[k * kTileRows + count[k]++] = {static_cast<int32_t>(q),
                                                           static_cast<int32_t>(i)};
        }
      }
    }
    places_[tile] = {id, static_cast<int64_t>(worker.pairs.size())};
    for (int64_t k = 0; k < volume_; k++) {
      const Positions* first = &worker.tile_pairs[k * kTileRows];
      worker.pairs.insert(worker.pairs.end(), first, first + count[k]);
      if (k > 0) count[k] += count[k - 1];
    }
  }

  const std::vector<uint64_t>&starts_, &keys_;
  const int64_t volume_, columns_;  // columns_: offsets of a row of the kernel
  const uint64_t dilation_;
  std::vector<uint64_t> row_start_;
  std::vector<Worker> workers_;
  std::vector<Place> places_;
  std::vector<int64_t> ends_;  // of each offset's pairs in its tile
};

// The tensors of a rulebook, whose counts become bounds before its pairs are written.
class Pages {
 public:
  Pages(int64_t tiles, int64_t volume, const at::Device& device)
      : bounds(at::empty({tiles, volume + 1}, at::TensorOptions(at::kLong).device(device))),
        bound_(bounds.mutable_data_ptr<int64_t>()),
        volume_(volume) {
    std::fill_n(bound_, bounds.numel(), 0);
  }

  int64_t& count(int64_t tile, int64_t k) { return bound_[tile * (volume_ + 1) + k + 1]; }

  // Makes bounds of the counts, and room for the pairs.
  void make_pairs() {
    int64_t total = 0;
    for (int64_t i = 0; i < bounds.numel(); i++) bound_[i] = total += bound_[i];
    pairs = at::empty({total, 2}, at::TensorOptions(at::kInt).device(bounds.device()));
    pair_ = reinterpret_cast<Pair*>(pairs.mutable_data_ptr<int32_t>());
  }

  // Where the pairs of offset k in the tile begin.
  Pair* begin(int64_t tile, int64_t k) { return pair_ + bound_[tile * (volume_ + 1) + k]; }

  at::Tensor pairs, bounds;

 private:
  int64_t* bound_;
  Pair* pair_ = nullptr;
  const int64_t volume_;
};

}  // namespace

std::tuple<at::Tensor, at::Tensor> find_pairs(const std::vector<uint64_t>& starts,
                                              const std::vector<int32_t>& out_rows,
                                              const SortedVoxels& voxels, const Geometry& g,
                                              const KeySteps& steps, const at::Device& device) {
  const int64_t tiles = tile_count(starts.size()), volume = g.kernel_volume;
  const FoundPairs found(starts, voxels, g, steps, volume);
  Pages pages(tiles, volume, device);
  for (int64_t tile = 0; tile < tiles; tile++)
    for (int64_t k = 0; k < volume; k++) pages.count(tile, k) = found.size(tile, k);
  pages.make_pairs();
  at::parallel_for(0, tiles, 16, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; tile++)
      for (int64_t k = 0; k < volume; k++) {
        const Positions* from = found.begin(tile, k);
        Pair* to = pages.begin(tile, k);
        for (int64_t p = 0; p < found.size(tile, k); p++)
          to[p] = {voxels.row(from[p].in), out_rows.empty() ? from[p].out : out_rows[from[p].out]};
      }
  });
  return {pages.pairs, pages.bounds};
}

std::tuple<at::Tensor, at::Tensor> find_own_pairs(const SortedVoxels& voxels, const Geometry& g,
                                                  const KeySteps& steps, const at::Device& device) {
  uint64_t shift = 0;
  for (int d = 0; d < g.ndim; d++) shift += g.padding[d] * steps.step[d];
  std::vector<uint64_t> starts = voxels.keys;
  for (uint64_t& start : starts) start -= shift;
  const bool symmetric =
      std::all_of(g.kernel.begin(), g.kernel.begin() + g.ndim, [](int64_t n) { return n % 2; });
  if (!symmetric) return find_pairs(starts, voxels.rows, voxels, g, steps, device);

  const int64_t count = starts.size(), tiles = tile_count(count);
  const int64_t volume = g.kernel_volume, middle = volume / 2;
  const FoundPairs found(starts, voxels, g, steps, middle);
  Pages pages(tiles, volume, device);
  // Calls body(tile, first, last) for the pairs of offset k, in parts whose inputs are in a tile.
  // The inputs ascend, as the outputs do.
  const auto for_each_input_tile = [&](int64_t k, const auto& body) {
    for (int64_t tile = 0; tile < tiles; tile++) {
      const Positions *first = found.begin(tile, k), *end = first + found.size(tile, k);
      while (first < end) {
        const int64_t of_input = first->in / kTileRows;
        const Positions* last = first;
        while (last < end && last->in < (of_input + 1) * kTileRows) last++;
        body(of_input, first, last);
        first = last;
      }
    }
  };
  cpu::for_each_unit(middle, [&](int64_t k, int64_t) {
    for (int64_t tile = 0; tile < tiles; tile++) pages.count(tile, k) = found.size(tile, k);
    for_each_input_tile(k, [&](int64_t tile, const Positions* first, const Positions* last) {
      pages.count(tile, volume - 1 - k) += last - first;
    });
  });
  for (int64_t tile = 0; tile < tiles; tile++)
    pages.count(tile, middle) = std::min(kTileRows, count - tile * kTileRows);
  pages.make_pairs();
  cpu::for_each_unit(middle + 1, [&](int64_t k, int64_t) {
    if (k == middle) {
      for (int64_t tile = 0; tile < tiles; tile++)
        for (int64_t i = tile * kTileRows, end = std::min(i + kTileRows, count); i < end; i++)
          pages.begin(tile, k)[i % kTileRows] = {voxels.row(i), voxels.row(i)};
      return;
    }
    for (int64_t tile = 0; tile < tiles; tile++) {
      const Positions* from = found.begin(tile, k);
      Pair* to = pages.begin(tile, k);
      for (int64_t p = 0; p < found.size(tile, k); p++)
        to[p] = {voxels.row(from[p].in), voxels.row(from[p].out)};
    }
    int64_t now = -1;
    Pair* to = nullptr;
    for_each_input_tile(k, [&](int64_t tile, const Positions* first, const Positions* last) {
      if (tile != now) to = pages.begin(tile, volume - 1 - k);
      now = tile;
      for (; first < last; first++) *to++ = {voxels.row(first->out), voxels.row(first->in)};
    });
  });
  return {pages.pairs, pages.bounds};
}

}  // namespace mxd::sparse_conv
