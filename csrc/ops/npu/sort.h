// Sorts of integers on the vector cores, where CANN's operators have none (they go to its AI CPU).
// Nothing here waits for the device, and results do not depend on the number of cores.
//
// Keys are int32 in [-1, kSortMaxKey]. Longer ones are several words, the highest first: int32
// [words, pitch] with `count` keys, pitch being whole_blocks(count), so that each word's list
// begins at a multiple of 32 bytes.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace mxd::npu {

struct Sorted {
  at::Tensor keys, rows;
};

struct Unique {
  at::Tensor keys;  // int32 [words, whole_blocks(count)], behind the unique ones zeros
  at::Tensor
      begins;  // int32 [count]: the place of the first of each; undefined where not asked for
};

// A count of int32 as a multiple of 32 bytes.
inline int64_t whole_blocks(int64_t count) { return (count + 7) / 8 * 8; }

// int64 numbers in [0, 2**63) as keys of kNumberWords words, and `count` of these as numbers.
constexpr int64_t kNumberWords = 3;
at::Tensor to_words(const at::Tensor& numbers);
at::Tensor from_words(const at::Tensor& words, int64_t count);

// Stable, in ascending order: keys int32 [count] and with them rows int32 [count] (undefined: 0, 1,
// 2 ...).
Sorted sort_keys(const at::Tensor& keys, const at::Tensor& rows = {});

// The same of keys of several words, `count` of them.
Sorted sort_words(const at::Tensor& keys, int64_t count);

// The rows that `list` int32 [count] names of a table int32 [rows] or [rows, columns], of which
// there are below 2**31 words; the columns in reverse if `flip`.
at::Tensor take_rows(const at::Tensor& table, const at::Tensor& list, bool flip = false);

// The different keys of sorted ones, without kSortMaxKey; their number is added to total int32 [1].
Unique unique_keys(const at::Tensor& sorted, int64_t count, const at::Tensor& total,
                   bool begins = false);

// int32 [count]: how many different keys of sorted ones are before each one.
at::Tensor number_keys(const at::Tensor& sorted, int64_t count);

}  // namespace mxd::npu
