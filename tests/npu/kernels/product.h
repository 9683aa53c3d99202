// The size of a matrix product.
#pragma once
#include <cstdint>

struct ProductSize {
  int32_t m, n, k;
};
