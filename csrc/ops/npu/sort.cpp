// The sort: how it is divided into runs and buckets, and the launches of csrc/kernels/sort*.cpp.
#include "sort.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <utility>

#include "../check.h"
#include "integers.h"
#include "launch.h"
#include "sort_tiling.h"
// The launches, which name the tilings.
#include "aclrtlaunch_sort_merge.h"
#include "aclrtlaunch_sort_runs.h"
#include "aclrtlaunch_sort_split.h"
#include "aclrtlaunch_sort_take.h"
#include "aclrtlaunch_sort_unique.h"
#include "aclrtlaunch_sort_unique_count.h"

namespace mxd::npu {
namespace {

using kernels::kBlockWords;
using kernels::kSortChunk;
using kernels::kSortList;
using kernels::kSortRun;
using kernels::kSortRuns;

constexpr int64_t kLeastRun = 2048;  // shorter ones cost more launches than they save time
constexpr int64_t kRunUnit = 512;    // runs are multiples of it, and so of the distances of samples
constexpr int64_t kWordBits = 21;    // of a number's words
constexpr int64_t kMostSlack = 2048;  // of a bucket, for what lies between two samples of each run

// Keys of a run: a single run for what one core sorts at once, else about one for each core.
int64_t run_of(int64_t count) {
  if (count <= kSortRun) return whole_blocks(count);
  const int64_t run = ceil_div(ceil_div(count, vector_cores()), kRunUnit) * kRunUnit;
  return std::clamp<int64_t>(run, kLeastRun, kSortRun);
}

int64_t sample_distance_of(int64_t runs) {
  int64_t distance = 32;
  while (runs * distance > kMostSlack) distance /= 2;
  return distance;
}

// The buckets of a merge of `runs` runs. Between two samples that are m apart in order, a run has
// at most m times the distance pairs and less than one distance more.
struct Buckets {
  int64_t samples, count;  // a bucket's samples, and buckets
};

Buckets buckets_of(int64_t runs, int64_t all_samples, int64_t distance) {
  const int64_t most = (kSortList - (kBlockWords - 1) * runs) / distance - runs;
  const int64_t cores = vector_cores();
  const int64_t wanted = ceil_div(ceil_div(all_samples, most), cores) * cores;
  const int64_t samples = ceil_div(all_samples, wanted);
  return {samples, ceil_div(all_samples, samples)};
}

at::Tensor empty(int64_t count, const at::Tensor& like) {
  return at::empty({count}, like.options());
}

// Merges the runs of `pairs`: to `merged`, or to `result` if that is undefined.
void merge(const at::Tensor& pairs, int64_t count, int64_t run, const at::Tensor& samples,
           int64_t distance, const at::Tensor& merged, const Sorted& result) {
  const int64_t runs = ceil_div(count, run);
  const Buckets buckets = buckets_of(runs, samples.size(0), distance);
  const Sorted sorted = sort_keys(samples);
  SortSplitTiling split{};
  split.count = count;
  split.run = run;
  split.chunk = run <= kSortChunk ? run : run <= kSortRun ? run / 2 : kSortChunk;
  split.sample_distance = distance;
  split.samples = buckets.samples;
  split.buckets = buckets.count;
  split.pitch = whole_blocks(buckets.count + 1);
  split.inverse_run = a_little_less_than_inverse(run);
  const at::Tensor positions = at::zeros({runs, split.pitch}, pairs.options());
  if (buckets.count > 1)
    launch(aclrtlaunch_sort_split, "sort_split",
           std::min(ceil_div(count, split.chunk), vector_cores()), pairs, sorted.keys, sorted.rows,
           positions, split);
  SortMergeTiling tiling{};
  tiling.count = count;
  tiling.run = run;
  tiling.runs = runs;
  tiling.buckets = buckets.count;
  tiling.pitch = split.pitch;
  tiling.last = !merged.defined();
  launch(aclrtlaunch_sort_merge, "sort_merge", std::min(buckets.count, vector_cores()), pairs,
         positions, merged, result.keys, result.rows, tiling);
}

// The keys of every distance-th pair.
at::Tensor samples_of(const at::Tensor& pairs, int64_t distance) {
  return pairs.view({-1, 2}).slice(0, 0, {}, distance).select(1, 0) - kernels::kKeyToScore;
}

}  // namespace

Sorted sort_keys(const at::Tensor& keys, const at::Tensor& rows) {
  const int64_t count = keys.size(0);
  const Sorted result{at::empty_like(keys), at::empty_like(keys)};
  if (count == 0) return result;
  int64_t run = run_of(count), group = run * kSortRuns;
  int64_t distance = sample_distance_of(std::min<int64_t>(ceil_div(count, run), kSortRuns));
  at::Tensor pairs, samples;
  if (run < count) {
    pairs = empty(2 * count, keys);
    samples = empty(ceil_div(count, distance), keys);
  }
  SortRunsTiling tiling{};
  tiling.count = count;
  tiling.run = run;
  tiling.sample_distance = distance;
  launch(aclrtlaunch_sort_runs, "sort_runs", std::min(ceil_div(count, run), vector_cores()), keys,
         rows, pairs, samples, result.keys, result.rows, tiling);
  for (; run < count; run = group, group *= kSortRuns) {
    if (!samples.defined()) {
      distance = sample_distance_of(std::min<int64_t>(ceil_div(count, run), kSortRuns));
      samples = samples_of(pairs, distance);
    }
    at::Tensor merged;
    if (group < count) merged = empty(2 * count, keys);
    for (int64_t begin = 0; begin < count; begin += group) {
      const int64_t end = std::min(begin + group, count);
      merge(pairs.slice(0, 2 * begin, 2 * end), end - begin, run,
            samples.slice(0, begin / distance, ceil_div(end, distance)), distance,
            merged.defined() ? merged.slice(0, 2 * begin, 2 * end) : merged, result);
    }
    pairs = merged;
    samples = at::Tensor();
  }
  return result;
}

at::Tensor to_words(const at::Tensor& numbers) {
  const int64_t count = numbers.size(0);
  const at::Tensor words =
      at::zeros({kNumberWords, whole_blocks(count)}, numbers.options().dtype(at::kInt));
  for (int64_t w = 0; w < kNumberWords; w++) {
    // No shifts: the AI core divides int64.
    at::Tensor word = numbers.floor_divide(int64_t{1} << (kNumberWords - 1 - w) * kWordBits);
    if (w > 0) word = word.remainder(int64_t{1} << kWordBits);
    words.select(0, w).slice(0, 0, count).copy_(word);
  }
  return words;
}

at::Tensor from_words(const at::Tensor& words, int64_t count) {
  at::Tensor numbers = words.select(0, 0).slice(0, 0, count).to(at::kLong);
  for (int64_t w = 1; w < kNumberWords; w++)
    numbers = numbers * (int64_t{1} << kWordBits) + words.select(0, w).slice(0, 0, count);
  return numbers;
}

Sorted sort_words(const at::Tensor& keys, int64_t count) {
  const auto word = [&](int64_t w) { return keys.select(0, w).slice(0, 0, count); };
  const int64_t words = keys.size(0);
  Sorted sorted = sort_keys(word(words - 1));
  if (words == 1) return {sorted.keys.unsqueeze(0), sorted.rows};
  for (int64_t w = words - 2; w >= 0; w--)
    sorted = sort_keys(take_rows(word(w), sorted.rows), sorted.rows);
  const at::Tensor all = at::empty_like(keys);
  for (int64_t w = 0; w < words; w++)
    all.select(0, w)
        .slice(0, 0, count)
        .copy_(w == 0 ? sorted.keys : take_rows(word(w), sorted.rows));
  return {all, sorted.rows};
}

at::Tensor take_rows(const at::Tensor& table, const at::Tensor& list, bool flip) {
  const int64_t columns = table.dim() == 1 ? 1 : table.size(1);
  std::vector<int64_t> size = table.sizes().vec();
  size[0] = list.size(0);
  const at::Tensor out = at::empty(size, table.options());
  if (out.numel() == 0) return out;
  SortTakeTiling tiling{};
  tiling.rows = table.size(0);
  tiling.count = list.size(0);
  tiling.columns = columns;
  tiling.flip = flip;
  tiling.inverse_columns = a_little_less_than_inverse(columns);
  launch(aclrtlaunch_sort_take, "sort_take", blocks_for(list.size(0), 64), table, list, out,
         tiling);
  return out;
}

Unique unique_keys(const at::Tensor& sorted, int64_t count, const at::Tensor& total, bool begins) {
  const int64_t words = sorted.size(0);
  Unique result{at::zeros({words, whole_blocks(count)}, sorted.options()), {}};
  if (begins) result.begins = at::zeros({count}, sorted.options());
  if (count == 0) return result;
  SortUniqueTiling tiling{};
  tiling.count = count;
  tiling.words = words;
  tiling.pitch = sorted.stride(0);
  tiling.out_pitch = result.keys.size(1);
  const int64_t blocks = blocks_for(count, 512);
  const at::Tensor counts = at::empty({blocks, kBlockWords}, sorted.options());
  launch(aclrtlaunch_sort_unique_count, "sort_unique_count", blocks, sorted, counts, tiling);
  launch(aclrtlaunch_sort_unique, "sort_unique", blocks, sorted, counts, result.keys, result.begins,
         total, tiling);
  return result;
}

at::Tensor number_keys(const at::Tensor& sorted, int64_t count) {
  if (count == 0) return at::empty({0}, sorted.options());
  const at::Tensor keys = sorted.slice(1, 0, count);
  const at::Tensor differs = keys.slice(1, 1).ne(keys.slice(1, 0, -1)).any(0);
  return at::constant_pad_nd(differs.to(at::kInt), {1, 0}).cumsum(0, at::kInt);
}

namespace {

void check_keys(const at::Tensor& keys, int64_t dims) {
  check_int32("keys", keys);
  TORCH_CHECK_VALUE(keys.dim() == dims && keys.is_contiguous(), "keys must have ", dims,
                    " dimensions and be contiguous");
}

// For tests.
std::tuple<at::Tensor, at::Tensor> sort_op(const at::Tensor& keys,
                                           const c10::optional<at::Tensor>& rows) {
  check_keys(keys, 1);
  const Sorted sorted = sort_keys(keys, rows ? *rows : at::Tensor());
  return {sorted.keys, sorted.rows};
}

std::tuple<at::Tensor, at::Tensor> sort_words_op(const at::Tensor& keys, int64_t count) {
  check_keys(keys, 2);
  const Sorted sorted = sort_words(keys, count);
  return {sorted.keys, sorted.rows};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> unique_op(const at::Tensor& keys, int64_t count) {
  check_keys(keys, 2);
  const at::Tensor total = at::zeros({1}, keys.options());
  const Unique result = unique_keys(keys, count, total, true);
  return {result.keys, result.begins, total};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(mxd, m) {
  m.def("_sort(Tensor keys, Tensor? rows) -> (Tensor keys, Tensor rows)");
  m.def("_sort_words(Tensor keys, int count) -> (Tensor keys, Tensor rows)");
  m.def("_sort_take(Tensor table, Tensor list, bool flip) -> Tensor");
  m.def("_sort_unique(Tensor keys, int count) -> (Tensor keys, Tensor begins, Tensor total)");
}

TORCH_LIBRARY_IMPL(mxd, PrivateUse1, m) {
  m.impl("_sort", TORCH_FN(sort_op));
  m.impl("_sort_words", TORCH_FN(sort_words_op));
  m.impl("_sort_take", TORCH_FN(take_rows));
  m.impl("_sort_unique", TORCH_FN(unique_op));
}

}  // namespace mxd::npu
