// Types, enumerations and parameter structs of Ascend C, named and laid out as CANN 8.1 has them.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#define __global__
#define __aicore__
#define __gm__
#define __ubuf__
#define __cbuf__
#define __ca__
#define __cb__
#define __cc__
#define __BLOCK_LOCAL__
#define GM_ADDR uint8_t*

#define KERNEL_TASK_TYPE_DEFAULT(value) static_cast<void>(value)
#define KERNEL_TASK_TYPE(key, value) static_cast<void>(value)
#define ASCEND_IS_AIC (::softnpu::OnCube())
#define ASCEND_IS_AIV (!::softnpu::OnCube())
#define ASCENDC_ASSERT(condition, behavior) \
  do {                                      \
    if (!(condition)) behavior              \
  } while (0)

enum KernelMetaType : uint8_t {
  KERNEL_TYPE_AIV_ONLY,
  KERNEL_TYPE_AIC_ONLY,
  KERNEL_TYPE_MIX_AIV_1_0,
  KERNEL_TYPE_MIX_AIC_1_0,
  KERNEL_TYPE_MIX_AIC_1_1,
  KERNEL_TYPE_MIX_AIC_1_2,
};

enum pipe_t { PIPE_S, PIPE_V, PIPE_M, PIPE_MTE1, PIPE_MTE2, PIPE_MTE3, PIPE_ALL, PIPE_FIX = 10 };

enum QuantMode_t {
  NoQuant = 0,
  F322F16 = 1,
  VREQ8 = 8,
  REQ8 = 9,
  VDEQF16 = 10,
  DEQF16 = 11,
  F322BF16 = 16,
  VQF322B8_PRE = 23,
  QF322B8_PRE = 24,
};

enum event_t {
  EVENT_ID0,
  EVENT_ID1,
  EVENT_ID2,
  EVENT_ID3,
  EVENT_ID4,
  EVENT_ID5,
  EVENT_ID6,
  EVENT_ID7,
};

namespace softnpu {

bool OnCube();

inline float HalfToFloat(uint16_t bits) {
  const uint32_t w = static_cast<uint32_t>(bits) << 16;
  const uint32_t sign = w & 0x80000000u;
  const uint32_t two_w = w + w;
  const float normal = std::bit_cast<float>((two_w >> 4) + (0xE0u << 23)) * 0x1.0p-112f;
  const float subnormal = std::bit_cast<float>((two_w >> 17) | (126u << 23)) - 0.5f;
  return std::bit_cast<float>(sign | (two_w < (1u << 27) ? std::bit_cast<uint32_t>(subnormal)
                                                         : std::bit_cast<uint32_t>(normal)));
}

// To nearest, ties to even. The addition of a power of two does the rounding.
inline uint16_t FloatToHalf(float value) {
  const uint32_t w = std::bit_cast<uint32_t>(value);
  const uint32_t two_w = w + w;
  const uint32_t exponent = two_w & 0xFF000000u;
  const uint32_t bias = exponent < 0x71000000u ? 0x71000000u : exponent;
  const float scaled = (std::bit_cast<float>(w & 0x7FFFFFFFu) * 0x1.0p+112f) * 0x1.0p-110f;
  const uint32_t bits =
      std::bit_cast<uint32_t>(std::bit_cast<float>((bias >> 1) + 0x07800000u) + scaled);
  const uint32_t magnitude = ((bits >> 13) & 0x7C00u) + (bits & 0x0FFFu);
  return static_cast<uint16_t>((w >> 16 & 0x8000u) | (two_w > 0xFF000000u ? 0x7E00u : magnitude));
}

inline uint16_t FloatToBfloat16(float value) {
  const uint32_t w = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (w + 0x7FFFu + (w >> 16 & 1u)) >> 16;
  return static_cast<uint16_t>((w & 0x7FFFFFFFu) > 0x7F800000u ? (w >> 16 | 0x40u) : rounded);
}

// A parameter that does not fit its field: the instruction that takes it is rejected.
struct BadField {
  const char* name = nullptr;
  int64_t value = 0;
  int64_t most = 0;
};
extern BadField g_bad_field;

// A parameter as the hardware's field of type T takes it.
template <typename T>
inline T Field(const char* name, int64_t value) {
  constexpr int64_t kMost = std::numeric_limits<T>::max();
  if (value < 0 || value > kMost) g_bad_field = {name, value, kMost};
  return static_cast<T>(value);
}

}  // namespace softnpu

struct half {
  uint16_t bits;

  half() = default;
  template <typename T, typename = std::enable_if_t<std::is_arithmetic_v<T>>>
  half(T value) : bits(softnpu::FloatToHalf(static_cast<float>(value))) {}
  operator float() const { return softnpu::HalfToFloat(bits); }
  half& operator+=(half other) { return *this = half(float(*this) + float(other)); }
  half& operator-=(half other) { return *this = half(float(*this) - float(other)); }
  half& operator*=(half other) { return *this = half(float(*this) * float(other)); }
  half& operator/=(half other) { return *this = half(float(*this) / float(other)); }
};

struct bfloat16_t {
  uint16_t bits;

  bfloat16_t() = default;
  template <typename T, typename = std::enable_if_t<std::is_arithmetic_v<T>>>
  bfloat16_t(T value) : bits(softnpu::FloatToBfloat16(static_cast<float>(value))) {}
  operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};

namespace AscendC {

inline float ToFloat(const bfloat16_t& value) { return value; }
inline bfloat16_t ToBfloat16(const float& value) { return value; }

inline constexpr int32_t DEFAULT_BLK_NUM = 8;
inline constexpr int32_t DEFAULT_BLK_STRIDE = 1;
inline constexpr uint8_t DEFAULT_REPEAT_STRIDE = 8;
inline constexpr uint8_t HALF_DEFAULT_REPEAT_STRIDE = 4;
inline constexpr uint64_t FULL_MASK = 0xffffffffffffffff;
inline constexpr int32_t DEFAULT_C0_SIZE = 32;
inline constexpr int32_t DEFAULT_BLOCK_SIZE = 256;
inline constexpr int32_t MAX_REPEAT_TIMES = 255;
inline constexpr uint32_t TOTAL_UB_SIZE = 192 * 1024;
inline constexpr uint32_t TMP_UB_OFFSET = 184 * 1024;  // where CANN keeps what it needs itself
inline constexpr uint32_t TOTAL_L1_SIZE = 512 * 1024;
inline constexpr uint32_t TOTAL_L0A_SIZE = 64 * 1024;
inline constexpr uint32_t TOTAL_L0B_SIZE = 64 * 1024;
inline constexpr uint32_t TOTAL_L0C_SIZE = 128 * 1024;
inline constexpr uint16_t ONE_BLK_SIZE = 32;
inline constexpr int32_t ONE_REPEAT_BYTE_SIZE = 256;
inline constexpr int32_t BLOCK_CUBE = 16;
inline constexpr int32_t CUBE_MAX_SIZE = 256;
inline constexpr int32_t NCHW_CONV_ADDR_LIST_SIZE = 16;
inline constexpr uint8_t MRG_SORT_ELEMENT_LEN = 4;
inline constexpr uint8_t PAD_SIZE = 4;

enum class TPosition : uint8_t {
  GM,
  A1,
  A2,
  B1,
  B2,
  C1,
  C2,
  CO1,
  CO2,
  VECIN,
  VECOUT,
  VECCALC,
  LCM = VECCALC,
  SPM,
  SHM = SPM,
  TSCM,
  C2PIPE2GM,
  C2PIPE2LOCAL,
  MAX,
};
using QuePosition = TPosition;

enum class HardEvent : uint8_t {
  MTE2_MTE1,
  MTE1_MTE2,
  MTE1_M,
  M_MTE1,
  MTE2_V,
  V_MTE2,
  MTE3_V,
  V_MTE3,
  M_V,
  V_M,
  V_V,
  MTE3_MTE1,
  MTE1_MTE3,
  MTE1_V,
  MTE2_M,
  M_MTE2,
  V_MTE1,
  M_FIX,
  FIX_M,
  MTE3_MTE2,
  MTE2_MTE3,
  S_V,
  V_S,
  S_MTE2,
  MTE2_S,
  S_MTE3,
  MTE3_S,
  MTE2_FIX,
  FIX_MTE2,
  FIX_S,
  M_S,
  FIX_MTE3,
  MTE1_FIX,
  FIX_MTE1,
  FIX_FIX,
  MAX,
};

enum class MemDsbT : uint8_t { ALL = 0, DDR, UB, SEQ };
enum class CacheLine : uint64_t { SINGLE_CACHE_LINE = 0, ENTIRE_DATA_CACHE };
enum class DcciDst : uint64_t { CACHELINE_ALL = 0, CACHELINE_UB, CACHELINE_OUT, CACHELINE_ATOMIC };
enum class CacheRwMode { READ = 1, WRITE = 2, RW = 3 };
enum class CacheMode {
  CACHE_MODE_DISABLE = 0,
  CACHE_MODE_NORMAL = 1,
  CACHE_MODE_LAST = 2,
  CACHE_MODE_PERSISTENT = 4
};
enum class MaskMode : uint8_t { NORMAL = 0, COUNTER };
enum class RoundMode : uint8_t {
  CAST_NONE = 0,
  CAST_RINT,
  CAST_FLOOR,
  CAST_CEIL,
  CAST_ROUND,
  CAST_TRUNC,
  CAST_ODD,
};
enum class CMPMODE : uint8_t { LT = 0, GT, EQ, LE, GE, NE };
enum class SELMODE : uint8_t {
  VSEL_CMPMASK_SPR = 0,
  VSEL_TENSOR_SCALAR_MODE,
  VSEL_TENSOR_TENSOR_MODE
};
enum class ReduceOrder : uint8_t {
  ORDER_VALUE_INDEX = 0,
  ORDER_INDEX_VALUE,
  ORDER_ONLY_VALUE,
  ORDER_ONLY_INDEX,
};
enum class GatherMaskMode : uint8_t { VERSION_V1 = 0, VERSION_V2 = 1 };
inline constexpr GatherMaskMode defaultGatherMaskMode = GatherMaskMode::VERSION_V2;
enum class CO2Layout : uint8_t { NZ = 0, ROW_MAJOR, COLUMN_MAJOR };

struct FixpipeConfig {
  CO2Layout format;
};
inline constexpr FixpipeConfig CFG_NZ = {CO2Layout::NZ};
inline constexpr FixpipeConfig CFG_ROW_MAJOR = {CO2Layout::ROW_MAJOR};
inline constexpr FixpipeConfig CFG_COLUMN_MAJOR = {CO2Layout::COLUMN_MAJOR};

struct DataCopyParams {
  DataCopyParams() {}
  DataCopyParams(int64_t count, int64_t len, int64_t src_stride, int64_t dst_stride)
      : blockCount(softnpu::Field<uint16_t>("blockCount", count)),
        blockLen(softnpu::Field<uint16_t>("blockLen", len)),
        srcStride(softnpu::Field<uint16_t>("srcStride", src_stride)),
        dstStride(softnpu::Field<uint16_t>("dstStride", dst_stride)) {}
  uint16_t blockCount = 1;
  uint16_t blockLen = 0;
  uint16_t srcStride = 0;
  uint16_t dstStride = 0;
};

struct DataCopyPadParams {
  DataCopyPadParams() {}
  DataCopyPadParams(bool is_pad, uint8_t left, uint8_t right, uint64_t value)
      : isPad(is_pad), leftPadding(left), rightPadding(right), paddingValue(value) {}
  bool isPad = false;
  uint8_t leftPadding = 0;
  uint8_t rightPadding = 0;
  uint64_t paddingValue = 0;
};

struct DataCopyExtParams {
  DataCopyExtParams() {}
  DataCopyExtParams(uint16_t count, uint32_t len, uint32_t src_stride, uint32_t dst_stride,
                    uint32_t reserved)
      : blockCount(count),
        blockLen(len),
        srcStride(src_stride),
        dstStride(dst_stride),
        rsv(reserved) {}
  uint16_t blockCount = 1;
  uint32_t blockLen = 0;
  uint32_t srcStride = 0;
  uint32_t dstStride = 0;
  uint32_t rsv = 0;
};

template <typename T>
struct DataCopyPadExtParams {
  DataCopyPadExtParams() {}
  DataCopyPadExtParams(bool is_pad, uint8_t left, uint8_t right, T value)
      : isPad(is_pad), leftPadding(left), rightPadding(right), paddingValue(value) {}
  bool isPad = false;
  uint8_t leftPadding = 0;
  uint8_t rightPadding = 0;
  T paddingValue = 0;
};

struct Nd2NzParams {
  Nd2NzParams() {}
  Nd2NzParams(int64_t nd_num, int64_t n_value, int64_t d_value, int64_t src_nd_matrix_stride,
              int64_t src_d_value, int64_t dst_nz_c0_stride, int64_t dst_nz_n_stride,
              int64_t dst_nz_matrix_stride)
      : ndNum(softnpu::Field<uint16_t>("ndNum", nd_num)),
        nValue(softnpu::Field<uint16_t>("nValue", n_value)),
        dValue(softnpu::Field<uint16_t>("dValue", d_value)),
        srcNdMatrixStride(softnpu::Field<uint16_t>("srcNdMatrixStride", src_nd_matrix_stride)),
        srcDValue(softnpu::Field<uint16_t>("srcDValue", src_d_value)),
        dstNzC0Stride(softnpu::Field<uint16_t>("dstNzC0Stride", dst_nz_c0_stride)),
        dstNzNStride(softnpu::Field<uint16_t>("dstNzNStride", dst_nz_n_stride)),
        dstNzMatrixStride(softnpu::Field<uint16_t>("dstNzMatrixStride", dst_nz_matrix_stride)) {}
  uint16_t ndNum = 0;
  uint16_t nValue = 0;
  uint16_t dValue = 0;
  uint16_t srcNdMatrixStride = 0;
  uint16_t srcDValue = 0;
  uint16_t dstNzC0Stride = 0;
  uint16_t dstNzNStride = 0;
  uint16_t dstNzMatrixStride = 0;
};

struct CopyRepeatParams {
  CopyRepeatParams() {}
  CopyRepeatParams(int64_t dst_stride, int64_t src_stride, int64_t dst_repeat, int64_t src_repeat)
      : dstStride(softnpu::Field<uint16_t>("dstStride", dst_stride)),
        srcStride(softnpu::Field<uint16_t>("srcStride", src_stride)),
        dstRepeatSize(softnpu::Field<uint16_t>("dstRepeatSize", dst_repeat)),
        srcRepeatSize(softnpu::Field<uint16_t>("srcRepeatSize", src_repeat)) {}
  uint16_t dstStride = 0;
  uint16_t srcStride = 0;
  uint16_t dstRepeatSize = 8;
  uint16_t srcRepeatSize = 8;
};

struct UnaryRepeatParams {
  UnaryRepeatParams() {}
  UnaryRepeatParams(int64_t dst_blk, int64_t src_blk, int64_t dst_rep, int64_t src_rep)
      : dstBlkStride(softnpu::Field<uint16_t>("dstBlkStride", dst_blk)),
        srcBlkStride(softnpu::Field<uint16_t>("srcBlkStride", src_blk)),
        dstRepStride(softnpu::Field<uint8_t>("dstRepStride", dst_rep)),
        srcRepStride(softnpu::Field<uint8_t>("srcRepStride", src_rep)) {}
  UnaryRepeatParams(int64_t dst_blk, int64_t src_blk, int64_t dst_rep, int64_t src_rep,
                    bool half_block)
      : dstBlkStride(softnpu::Field<uint16_t>("dstBlkStride", dst_blk)),
        srcBlkStride(softnpu::Field<uint16_t>("srcBlkStride", src_blk)),
        dstRepStride(softnpu::Field<uint8_t>("dstRepStride", dst_rep)),
        srcRepStride(softnpu::Field<uint8_t>("srcRepStride", src_rep)),
        halfBlock(half_block) {}
  uint32_t blockNumber = 8;
  uint16_t dstBlkStride = 1;
  uint16_t srcBlkStride = 1;
  uint8_t dstRepStride = 8;
  uint8_t srcRepStride = 8;
  bool repeatStrideMode = false;
  bool strideSizeMode = false;
  bool halfBlock = false;
};

struct BinaryRepeatParams {
  BinaryRepeatParams() {}
  BinaryRepeatParams(int64_t dst_blk, int64_t src0_blk, int64_t src1_blk, int64_t dst_rep,
                     int64_t src0_rep, int64_t src1_rep)
      : dstBlkStride(softnpu::Field<uint8_t>("dstBlkStride", dst_blk)),
        src0BlkStride(softnpu::Field<uint8_t>("src0BlkStride", src0_blk)),
        src1BlkStride(softnpu::Field<uint8_t>("src1BlkStride", src1_blk)),
        dstRepStride(softnpu::Field<uint8_t>("dstRepStride", dst_rep)),
        src0RepStride(softnpu::Field<uint8_t>("src0RepStride", src0_rep)),
        src1RepStride(softnpu::Field<uint8_t>("src1RepStride", src1_rep)) {}
  uint32_t blockNumber = 8;
  uint8_t dstBlkStride = 1;
  uint8_t src0BlkStride = 1;
  uint8_t src1BlkStride = 1;
  uint8_t dstRepStride = 8;
  uint8_t src0RepStride = 8;
  uint8_t src1RepStride = 8;
  bool repeatStrideMode = false;
  bool strideSizeMode = false;
};

struct BrcbRepeatParams {
  BrcbRepeatParams() {}
  BrcbRepeatParams(int64_t dst_blk, int64_t dst_rep)
      : dstRepStride(softnpu::Field<uint16_t>("dstRepStride", dst_rep)),
        dstBlkStride(softnpu::Field<uint16_t>("dstBlkStride", dst_blk)) {}
  uint32_t blockNumber = 8;
  uint16_t dstRepStride = 8;
  uint16_t dstBlkStride = 1;
  uint8_t src0BlkStride = 1;
  uint8_t src1BlkStride = 1;
  uint8_t src0RepStride = 8;
  uint8_t src1RepStride = 8;
  bool repeatStrideMode = false;
  bool strideSizeMode = false;
};

struct GatherRepeatParams {
  GatherRepeatParams() {}
  GatherRepeatParams(int64_t dst_blk, int64_t dst_rep)
      : dstRepStride(softnpu::Field<uint16_t>("dstRepStride", dst_rep)),
        dstBlkStride(softnpu::Field<uint8_t>("dstBlkStride", dst_blk)) {}
  uint32_t blockNumber = 8;
  uint16_t dstRepStride = 8;
  uint8_t dstBlkStride = 1;
  uint8_t src0BlkStride = 1;
  uint8_t src1BlkStride = 1;
  uint8_t src0RepStride = 8;
  uint8_t src1RepStride = 8;
  bool repeatStrideMode = false;
  bool strideSizeMode = false;
};

struct GatherMaskParams {
  GatherMaskParams() {}
  GatherMaskParams(int64_t src0_block_stride, int64_t repeat_times, int64_t src0_repeat_stride,
                   int64_t src1_repeat_stride)
      : src0BlockStride(softnpu::Field<uint8_t>("src0BlockStride", src0_block_stride)),
        repeatTimes(softnpu::Field<uint16_t>("repeatTimes", repeat_times)),
        src0RepeatStride(softnpu::Field<uint16_t>("src0RepeatStride", src0_repeat_stride)),
        src1RepeatStride(softnpu::Field<uint8_t>("src1RepeatStride", src1_repeat_stride)) {}
  uint8_t src0BlockStride = 1;
  uint16_t repeatTimes = 0;
  uint16_t src0RepeatStride = 8;
  uint8_t src1RepeatStride = 8;
};

struct MrgSort4Info {
  MrgSort4Info() {}
  MrgSort4Info(const uint16_t lengths[4], bool suspend, uint16_t valid, uint16_t repeat)
      : ifExhaustedSuspension(suspend), validBit(valid), repeatTimes(static_cast<uint8_t>(repeat)) {
    for (int i = 0; i < 4; ++i) elementLengths[i] = lengths[i];
  }
  uint16_t elementLengths[4] = {0};
  bool ifExhaustedSuspension = false;
  uint16_t validBit = 0;
  uint8_t repeatTimes = 1;
};

struct TransDataTo5HDParams {
  TransDataTo5HDParams() {}
  TransDataTo5HDParams(bool dst_high, bool src_high, uint8_t repeat, uint16_t dst_rep,
                       uint16_t src_rep)
      : dstHighHalf(dst_high),
        srcHighHalf(src_high),
        repeatTimes(repeat),
        dstRepStride(dst_rep),
        srcRepStride(src_rep) {}
  bool dstHighHalf = false;
  bool srcHighHalf = false;
  uint8_t repeatTimes = 1;
  uint16_t dstRepStride = 0;
  uint16_t srcRepStride = 0;
};

struct LoadData2DParams {
  LoadData2DParams() {}
  LoadData2DParams(int64_t start_index, int64_t repeat_times, int64_t src_stride, int64_t sid_in,
                   int64_t dst_gap, bool if_transpose, int64_t addr_mode)
      : startIndex(softnpu::Field<uint16_t>("startIndex", start_index)),
        dstGap(softnpu::Field<uint16_t>("dstGap", dst_gap)),
        srcStride(softnpu::Field<uint16_t>("srcStride", src_stride)),
        ifTranspose(if_transpose),
        repeatTimes(softnpu::Field<uint8_t>("repeatTimes", repeat_times)),
        sid(softnpu::Field<uint8_t>("sid", sid_in)),
        addrMode(softnpu::Field<uint8_t>("addrMode", addr_mode)) {}
  uint16_t startIndex = 0;
  uint16_t dstGap = 0;
  uint16_t srcStride = 0;
  bool ifTranspose = false;
  uint8_t repeatTimes = 0;
  uint8_t sid = 0;
  uint8_t addrMode = 0;
};
using LoadData2dParams = LoadData2DParams;

struct LoadData2dTransposeParams {
  LoadData2dTransposeParams() {}
  LoadData2dTransposeParams(uint16_t start_index, uint8_t repeat_times, uint16_t src_stride,
                            uint16_t dst_gap, uint16_t dst_frac_gap, uint8_t addr_mode)
      : startIndex(start_index),
        repeatTimes(repeat_times),
        srcStride(src_stride),
        dstGap(dst_gap),
        dstFracGap(dst_frac_gap),
        addrMode(addr_mode) {}
  LoadData2dTransposeParams(uint16_t start_index, uint8_t repeat_times, uint16_t src_stride,
                            uint16_t dst_gap, uint16_t dst_frac_gap)
      : LoadData2dTransposeParams(start_index, repeat_times, src_stride, dst_gap, dst_frac_gap, 0) {
  }
  uint16_t startIndex = 0;
  uint8_t repeatTimes = 0;
  uint16_t srcStride = 0;
  uint16_t dstGap = 0;
  uint16_t dstFracGap = 0;
  uint8_t addrMode = 0;
};

struct MmadParams {
  MmadParams() {}
  MmadParams(uint16_t m_in, uint16_t n_in, uint16_t k_in, bool is_bias, int32_t fm_offset,
             bool en_sparse, bool en_winograd_a, bool en_winograd_b)
      : m(m_in),
        n(n_in),
        k(k_in),
        isBias(is_bias),
        fmOffset(fm_offset),
        enSsparse(en_sparse),
        enWinogradA(en_winograd_a),
        enWinogradB(en_winograd_b) {}
  MmadParams(uint16_t m_in, uint16_t n_in, uint16_t k_in, uint8_t unit_flag, bool source, bool init)
      : m(m_in),
        n(n_in),
        k(k_in),
        unitFlag(unit_flag),
        cmatrixSource(source),
        cmatrixInitVal(init) {}
  uint16_t m = 0;
  uint16_t n = 0;
  uint16_t k = 0;
  bool isBias = false;
  int32_t fmOffset = 0;
  bool enSsparse = false;
  bool enWinogradA = false;
  bool enWinogradB = false;
  uint8_t unitFlag = 0;
  bool kDirectionAlign = false;
  bool cmatrixSource = false;
  bool cmatrixInitVal = true;
};

template <typename U>
struct InitConstValueParams {
  InitConstValueParams() {}
  InitConstValueParams(uint16_t repeat, uint16_t block_num, uint16_t dst_gap, U value)
      : repeatTimes(repeat), blockNum(block_num), dstGap(dst_gap), initValue(value) {}
  InitConstValueParams(uint16_t repeat, U value) : repeatTimes(repeat), initValue(value) {}
  uint16_t repeatTimes = 0;
  uint16_t blockNum = 0;
  uint16_t dstGap = 0;
  U initValue = 0;
};

struct FixpipeParamsV220 {
  FixpipeParamsV220() {}
  FixpipeParamsV220(uint16_t n_size, uint16_t m_size, uint16_t src_stride, uint32_t dst_stride,
                    bool relu)
      : nSize(n_size), mSize(m_size), srcStride(src_stride), dstStride(dst_stride), reluEn(relu) {}
  FixpipeParamsV220(uint16_t n_size, uint16_t m_size, uint16_t src_stride, uint32_t dst_stride,
                    bool relu, QuantMode_t quant, int64_t deq_scalar, uint16_t nd_num,
                    uint16_t src_nd_stride, uint16_t dst_nd_stride, uint8_t unit_flag,
                    bool channel_split = false)
      : nSize(n_size),
        mSize(m_size),
        srcStride(src_stride),
        dstStride(dst_stride),
        quantPre(quant),
        deqScalar(static_cast<uint64_t>(deq_scalar)),
        ndNum(nd_num),
        srcNdStride(src_nd_stride),
        dstNdStride(dst_nd_stride),
        reluEn(relu),
        unitFlag(unit_flag),
        isChannelSplit(channel_split) {}
  uint16_t nSize = 0;
  uint16_t mSize = 0;
  uint16_t srcStride = 0;
  uint32_t dstStride = 0;
  QuantMode_t quantPre = QuantMode_t::NoQuant;
  uint64_t deqScalar = 0;
  uint16_t ndNum = 1;
  uint16_t srcNdStride = 0;
  uint16_t dstNdStride = 0;
  bool reluEn = false;
  uint8_t unitFlag = 0;
  bool isChannelSplit = false;
};

}  // namespace AscendC
