// What an instruction of vector.cpp is given; test_vector.py has the same struct.
#pragma once
#include <cstdint>

struct VectorCase {
  uint64_t mask[2];
  int32_t instruction;
  int32_t type;  // 0 float, 1 half, 2 int32_t, 3 int16_t
  int32_t form;  // 0 a count of elements, 1 a mask of lanes on end, 2 a mask of bits
  int32_t count;
  int32_t repeat;
  int32_t block[3];   // strides of the destination, source 0 and source 1
  int32_t stride[3];  // and from repeat to repeat
  int32_t extra;
  float scalar;
};
