// Parallel least-significant-digit radix sort of unsigned 64-bit keys, with or without the
// permutation.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "parallel.h"

namespace mxd::cpu {

// Sorts keys ascending, stably. With `order` (filled with 0, 1, ... by the caller) the values move
// with their keys. Only the digits below `key_limit` (an upper bound of every key) are looked at.
inline void radix_sort(std::vector<uint64_t>& keys, std::vector<int32_t>* order,
                       uint64_t key_limit) {
  constexpr int kBits = 11, kBuckets = 1 << kBits;
  const int64_t count = keys.size();
  const int64_t parts = std::clamp<int64_t>(count / 16384, 1, at::get_num_threads());
  std::vector<uint64_t> other(count);
  std::vector<int32_t> other_order(order ? count : 0);
  std::vector<int64_t> place(parts * kBuckets);

  for (int shift = 0; shift < 64 && key_limit >> shift; shift += kBits) {
    std::fill(place.begin(), place.end(), 0);
    auto digit = [&](uint64_t key) { return (key >> shift) & (kBuckets - 1); };
    for_each_part(parts, count, [&](int64_t part, int64_t begin, int64_t end) {
      int64_t* histogram = &place[part * kBuckets];
      for (int64_t i = begin; i < end; i++) histogram[digit(keys[i])]++;
    });
    int64_t next = 0;
    for (int bucket = 0; bucket < kBuckets; bucket++)
      for (int64_t part = 0; part < parts; part++) {
        const int64_t size = place[part * kBuckets + bucket];
        place[part * kBuckets + bucket] = next;
        next += size;
      }
    for_each_part(parts, count, [&](int64_t part, int64_t begin, int64_t end) {
      int64_t* to = &place[part * kBuckets];
      for (int64_t i = begin; i < end; i++) {
        const int64_t slot = to[digit(keys[i])]++;
        other[slot] = keys[i];
        if (order) other_order[slot] = (*order)[i];
      }
    });
    keys.swap(other);
    if (order) order->swap(other_order);
  }
}

}  // namespace mxd::cpu
