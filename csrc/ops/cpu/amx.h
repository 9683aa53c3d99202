// Products of bfloat16 numbers by the processor's matrix unit (Intel AMX), summed in float32. Its
// registers are tiles of 16 rows of 64 bytes: 16 by 16 sums, or 16 rows of 16 pairs.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "gemm.h"

// GCC 11 is the first that comes with an assembler for it.
#if defined(__x86_64__) && defined(__linux__) && (defined(__clang__) || __GNUC__ >= 11)
#define MXD_HAS_AMX 1
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace mxd::cpu::amx {

constexpr int64_t kSide = 16;          // rows of a tile, and sums or pairs in one
constexpr int64_t kBlock = 2 * kSide;  // rows and columns of sums that are kept in tiles

inline int64_t whole_blocks(int64_t count) { return (count + kBlock - 1) / kBlock * kBlock; }

// The steps of a product `pairs` pairs deep: few, and of equal depth, so that little is padded.
struct Depth {
  int64_t steps, pairs;  // pairs of a step

  explicit Depth(int64_t all)
      : steps((all + kSide - 1) / kSide), pairs(steps ? (all + steps - 1) / steps : 0) {}
  int64_t padded() const { return steps * pairs; }
};

#ifdef MXD_HAS_AMX

// Whether the processor has the unit, and Linux lets this process use it.
inline bool is_there() {
  static const bool there = [] {
    constexpr int kRequestPermission = 0x1023, kTileData = 18;  // arch_prctl(2)
    constexpr unsigned kBFloat16 = 1 << 22, kTiles = 1 << 24;
    unsigned a, b, c, d;
    return has_bfloat16() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kBFloat16) &&
           (d & kTiles) && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return there;
}

// Sets the tiles of this thread up, for steps of `pairs` pairs, as long as it lives: 0 to 3 hold
// sums, 4 and 5 rows of the left matrix, 6 and 7 those of the right one. oneDNN, which uses the
// unit too, sets them up itself.
class Tiles {
 public:
  explicit Tiles(int64_t pairs) {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } layout;
    for (int tile = 0; tile < 8; tile++) {
      layout.row_bytes[tile] = tile == 4 || tile == 5 ? pairs * sizeof(BFloat16Pair) : 64;
      layout.rows[tile] = tile < 6 ? kSide : pairs;
    }
    asm volatile("ldtilecfg %0" : : "m"(layout));
  }
  ~Tiles() { asm volatile("tilerelease"); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

template <int Tile>
MXD_INLINE void load(const void* from, int64_t row_bytes) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(row_bytes), "i"(Tile) : "memory");
}
template <int Tile>
MXD_INLINE void store(void* to, int64_t row_bytes) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(row_bytes), "i"(Tile) : "memory");
}
template <int Tile>
MXD_INLINE void clear() {
  asm volatile("tilezero %%tmm%c0" : : "i"(Tile));
}
template <int Sum, int Left, int Right>
MXD_INLINE void add_product() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sum), "i"(Left), "i"(Right));
}

// Sums of a block: Rows by Columns tiles, each 1 or 2. Tile 2 * row + column holds a part of them.
template <int Rows, int Columns, typename Body>
MXD_INLINE void for_each_sum(const Body& body) {
  body(std::integral_constant<int, 0>{}, 0, 0);
  if constexpr (Columns > 1) body(std::integral_constant<int, 1>{}, 0, kSide);
  if constexpr (Rows > 1) body(std::integral_constant<int, 2>{}, kSide, 0);
  if constexpr (Rows > 1 && Columns > 1) body(std::integral_constant<int, 3>{}, kSide, kSide);
}

// How the tiles of a factor of a block lie, in pairs: `row` from a row of a tile to the next,
// `step` to the tile of the next step, `other` to the tile of the block's other rows or columns.
struct Factor {
  const BFloat16Pair* data;
  int64_t row, step, other;
};

// out [kSide * Rows, kSide * Columns] = or += left times right, `steps` tiles deep. Rows of left
// tiles are rows of the matrix; a row of a right tile is two rows of the matrix, in pairs.
template <int Rows, int Columns>
MXD_INLINE void multiply(int64_t steps, Factor left, Factor right, bool add, float* out,
                         int64_t out_stride) {
  const int64_t left_bytes = left.row * sizeof(BFloat16Pair), out_bytes = out_stride * sizeof(*out);
  const int64_t right_bytes = right.row * sizeof(BFloat16Pair);
  for_each_sum<Rows, Columns>([&](auto tile, int64_t row, int64_t column) MXD_INLINED {
    if (add)
      load<tile>(out + row * out_stride + column, out_bytes);
    else
      clear<tile>();
  });
  for (; steps > 0; steps--, left.data += left.step, right.data += right.step) {
    load<6>(right.data, right_bytes);
    load<4>(left.data, left_bytes);
    add_product<0, 4, 6>();
    if constexpr (Columns > 1) {
      load<7>(right.data + right.other, right_bytes);
      add_product<1, 4, 7>();
    }
    if constexpr (Rows > 1) {
      load<5>(left.data + left.other, left_bytes);
      add_product<2, 5, 6>();
      if constexpr (Columns > 1) add_product<3, 5, 7>();
    }
  }
  for_each_sum<Rows, Columns>([&](auto tile, int64_t row, int64_t column) MXD_INLINED {
    store<tile>(out + row * out_stride + column, out_bytes);
  });
}

// Calls body(row, column, rows, columns) for the blocks of sums, the last two as compile-time
// constants: the tiles of a block. `rows` and `columns` are rounded up to whole tiles.
template <typename Body>
MXD_INLINE void for_each_block(int64_t rows, int64_t columns, const Body& body) {
  for (int64_t row = 0; row < rows; row += kBlock)
    for (int64_t column = 0; column < columns; column += kBlock)
      with_constant<2>((rows - row + kSide - 1) / kSide, [&](auto r) MXD_INLINED {
        with_constant<2>((columns - column + kSide - 1) / kSide,
                         [&](auto c) MXD_INLINED { body(row, column, r, c); });
      });
}

using Pairs = Simd<BFloat16Pair, Avx512::kBytes>::Vec;
typedef uint16_t Numbers __attribute__((vector_size(Avx512::kBytes)));

// Elements that are chosen from two vectors of type V: those of `a` come before those of `b`.
#ifdef __clang__
#define MXD_SHUFFLE(V, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MXD_SHUFFLE(V, a, b, ...) __builtin_shuffle(a, b, V{__VA_ARGS__})
#endif

// Pairs of the kBlock numbers of two rows: lane l of the first result has the numbers 8 l to
// 8 l + 3, lane l of the second those that follow.
MXD_INLINE void pairs_of(const uint16_t* first, const uint16_t* second, Pairs* pairs) {
  Numbers a, b;
  std::memcpy(&a, first, sizeof(a));
  std::memcpy(&b, second, sizeof(b));
  const Numbers low =
      MXD_SHUFFLE(Numbers, a, b, 0, 32, 1, 33, 2, 34, 3, 35, 8, 40, 9, 41, 10, 42, 11, 43, 16, 48,
                  17, 49, 18, 50, 19, 51, 24, 56, 25, 57, 26, 58, 27, 59);
  const Numbers high =
      MXD_SHUFFLE(Numbers, a, b, 4, 36, 5, 37, 6, 38, 7, 39, 12, 44, 13, 45, 14, 46, 15, 47, 20, 52,
                  21, 53, 22, 54, 23, 55, 28, 60, 29, 61, 30, 62, 31, 63);
  std::memcpy(&pairs[0], &low, sizeof(low));
  std::memcpy(&pairs[1], &high, sizeof(high));
}

// Tiles of a right factor, two for each kBlock of `channels`: row p is the pairs of rows 2 p and
// 2 p + 1.
MXD_INLINE void pack_right(const uint16_t* const* rows, int64_t channels, BFloat16Pair* to) {
  for (int64_t p = 0; p < kSide; p++, rows += 2, to += kSide)
    for (int64_t c = 0; c < channels; c += kBlock) {
      Pairs pairs[2];
      pairs_of(rows[0] + c, rows[1] + c, pairs);
      const Pairs ordered[2] = {MXD_SHUFFLE(Pairs, pairs[0], pairs[1], 0, 1, 2, 3, 16, 17, 18, 19,
                                            4, 5, 6, 7, 20, 21, 22, 23),
                                MXD_SHUFFLE(Pairs, pairs[0], pairs[1], 8, 9, 10, 11, 24, 25, 26, 27,
                                            12, 13, 14, 15, 28, 29, 30, 31)};
      std::memcpy(to + c * kSide, &ordered[0], sizeof(Pairs));
      std::memcpy(to + (c + kSide) * kSide, &ordered[1], sizeof(Pairs));
    }
}

// columns[4 l + j] = element 4 l + j of all rows. Transposes blocks of two, of four, and lanes.
MXD_INLINE void transpose(const Pairs* rows, Pairs* columns) {
  Pairs a[kSide], b[kSide];
#pragma GCC unroll 8
  for (int i = 0; i < kSide; i += 2) {
    b[i] = MXD_SHUFFLE(Pairs, rows[i], rows[i + 1], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12,
                       28, 13, 29);
    b[i + 1] = MXD_SHUFFLE(Pairs, rows[i], rows[i + 1], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27,
                           14, 30, 15, 31);
  }
#pragma GCC unroll 4
  for (int i = 0; i < kSide; i += 4)
#pragma GCC unroll 2
    for (int j = 0; j < 2; j++) {
      a[i + 2 * j] = MXD_SHUFFLE(Pairs, b[i + j], b[i + j + 2], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9,
                                 24, 25, 12, 13, 28, 29);
      a[i + 2 * j + 1] = MXD_SHUFFLE(Pairs, b[i + j], b[i + j + 2], 2, 3, 18, 19, 6, 7, 22, 23, 10,
                                     11, 26, 27, 14, 15, 30, 31);
    }
  // Lane l of a[4 i + j] is now column 4 l + j of rows 4 i to 4 i + 3.
  const auto even_lanes = [](const Pairs& x, const Pairs& y) MXD_INLINED {
    return MXD_SHUFFLE(Pairs, x, y, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
  };
  const auto odd_lanes = [](const Pairs& x, const Pairs& y) MXD_INLINED {
    return MXD_SHUFFLE(Pairs, x, y, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
  };
#pragma GCC unroll 4
  for (int j = 0; j < 4; j++) {
    const Pairs even[] = {even_lanes(a[j], a[4 + j]), even_lanes(a[8 + j], a[12 + j])};
    const Pairs odd[] = {odd_lanes(a[j], a[4 + j]), odd_lanes(a[8 + j], a[12 + j])};
    columns[j] = even_lanes(even[0], even[1]);
    columns[4 + j] = even_lanes(odd[0], odd[1]);
    columns[8 + j] = odd_lanes(even[0], even[1]);
    columns[12 + j] = odd_lanes(odd[0], odd[1]);
  }
}
#undef MXD_SHUFFLE

// Tiles of a left factor, two for each kBlock of `channels`: row c is number c of all rows, in
// pairs.
MXD_INLINE void pack_left(const uint16_t* const* rows, int64_t channels, BFloat16Pair* to) {
  for (int64_t c = 0; c < channels; c += kBlock, to += kBlock * kSide) {
    Pairs pairs[2][kSide], columns[kSide];
#pragma GCC unroll 16
    for (int p = 0; p < kSide; p++) {
      Pairs both[2];
      pairs_of(rows[2 * p] + c, rows[2 * p + 1] + c, both);
      pairs[0][p] = both[0];
      pairs[1][p] = both[1];
    }
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
      transpose(pairs[half], columns);
#pragma GCC unroll 4
      for (int l = 0; l < 4; l++)
        std::memcpy(to + (8 * l + 4 * half) * kSide, columns + 4 * l, 4 * sizeof(Pairs));
    }
  }
}

#else

inline bool is_there() { return false; }

#endif

// Whether products `depth` numbers deep for `columns` sums are made by the unit: where that is
// faster than vectors of pairs. MXD_AMX=0 has none made by it, MXD_AMX=1 all.
inline bool is_used(int64_t depth, int64_t columns) {
  if (!is_there() || depth == 0 || columns == 0) return false;
  const char* wish = std::getenv("MXD_AMX");
  return wish ? *wish != '0' : depth >= kBlock && columns >= kBlock;
}

}  // namespace mxd::cpu::amx
