// Sizes of an Atlas A2 (Ascend 910B), for the host and for kernels.
#pragma once

#include <cstdint>

// Tilings are included by the host too, to which __aicore__ means nothing.
#ifdef __CCE_AICORE__
#include "kernel_operator.h"
#elif !defined(__aicore__)
#define __aicore__
#endif

namespace mxd::kernels {

constexpr int32_t kUbBytes = 196608;   // unified buffer of a vector core
constexpr int32_t kL1Bytes = 524288;   // of a cube core, and so are the following
constexpr int32_t kL0Bytes = 65536;    // L0A and L0B, each
constexpr int32_t kL0cBytes = 131072;  // L0C

constexpr int32_t kBlockBytes = 32;    // what UB addresses and lengths of DataCopy are multiples of
constexpr int32_t kRepeatBytes = 256;  // of one repeat of a vector instruction
constexpr int32_t kWord = 4;           // bytes of an int32 or fp32
constexpr int32_t kBlockWords = kBlockBytes / kWord;
constexpr int32_t kLanes = kRepeatBytes / kWord;  // words of a repeat
constexpr int32_t kMaxRepeats = 255;

constexpr int32_t kFractalRows = 16;    // of a matrix instruction's smallest block
constexpr int32_t kFractalBytes = 512;  // 16 rows of 32 bytes

constexpr int32_t kCacheLine = 64;  // bytes, of the scalar unit's data cache

}  // namespace mxd::kernels
