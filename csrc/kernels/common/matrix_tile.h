// The largest product of one matrix instruction that leaves room to load the next one's operands
// meanwhile: L0A, L0B and L0C are each used in two halves, in turn. For the host and for kernels.
#pragma once

#include "machine.h"

namespace mxd::kernels {

constexpr int32_t kMatrixRows = 128;
constexpr int32_t kMatrixColumns = 128;
constexpr int32_t kContractionBytes = 256;  // of a row of the left operand
constexpr int32_t kContractionBlocks = kContractionBytes / kBlockBytes;

constexpr int32_t kOperandBytes = kL0Bytes / 2, kSumBytes = kL0cBytes / 2;
static_assert(kMatrixRows * kContractionBytes <= kOperandBytes &&
              kMatrixColumns * kContractionBytes <= kOperandBytes &&
              kMatrixRows * kMatrixColumns * kWord <= kSumBytes);

}  // namespace mxd::kernels
