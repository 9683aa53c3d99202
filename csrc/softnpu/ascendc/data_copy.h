// DMA between global memory, UB and L1.
#pragma once

#include "gather.h"

namespace softnpu {

template <typename T>
inline Pipe BeginDma(const char* name, const AscendC::LocalTensor<T>& local, bool in,
                     const Here& here) {
  Core& c = core();
  c.Begin(name, in ? kMte2 : kMte3, here);
  if (local.memory() == kUb && c.cube)
    c.Reject("%s of UB on a cube core: put it under ASCEND_IS_AIV", name);
  if (local.memory() != kUb && !c.cube && local.memory() != kMemories) {
    c.Reject("%s of %s on a vector core: put it under ASCEND_IS_AIC", name,
             kMemoryNames[local.memory()]);
  }
  return c.pipe;
}

inline void CheckBursts(uint64_t count, uint64_t length, uint64_t most_length) {
  if (count > 4095)
    core().Reject("%llu blocks, at most 4095 are possible", static_cast<unsigned long long>(count));
  if (length > most_length) {
    core().Reject("blocks of %llu, at most %llu are possible",
                  static_cast<unsigned long long>(length),
                  static_cast<unsigned long long>(most_length));
  }
}

// Bursts between a local memory and global memory; strides from start to start, in bytes. Bytes of
// a local burst beyond `bytes` up to a multiple of 32 are written by the DMA as well, with nothing
// of use in them.
template <typename T>
inline void Dma(bool in, const AscendC::LocalTensor<T>& local, const T* global, uint64_t bursts,
                uint32_t bytes, int64_t local_stride, int64_t global_stride) {
  Core& c = core();
  if (bursts == 0 || bytes == 0) return;
  local.Check(in ? "the destination" : "the source");
  if (local.memory() != kUb && local.memory() != kL1)
    c.Reject("no DMA between global memory and %s", kMemoryNames[local.memory()]);
  const uint32_t padded = (bytes + 31) / 32 * 32;
  const bool dense =
      local_stride == padded && global_stride == static_cast<int64_t>(bytes) && padded == bytes;
  const uint64_t pieces = dense ? 1 : bursts;
  const uint64_t piece = dense ? bursts * bytes : bytes;
  for (uint64_t i = 0; i < pieces; ++i) {
    const int64_t at = static_cast<int64_t>(i) * local_stride;
    local.CheckRange(in ? "the destination" : "the source", at,
                     static_cast<int64_t>(dense ? piece : padded));
    uint8_t* far = reinterpret_cast<uint8_t*>(const_cast<T*>(global)) +
                   static_cast<int64_t>(i) * global_stride;
    const uint32_t offset = local.offset() + static_cast<uint32_t>(at);
    uint8_t* near = c.memory[local.memory()] + offset;
    if (in) {
      const uint8_t* from = c.ReadGlobal(far, piece);
      c.Write(local.memory(), offset, static_cast<uint32_t>(piece));
      std::memcpy(near, from, piece);
      if (padded != bytes) std::memset(near + bytes, 0xFF, padded - bytes);
    } else {
      c.Read(local.memory(), offset, static_cast<uint32_t>(piece));
      uint8_t* to = c.WriteGlobal(far, piece);
      if (c.atomic) {
        c.atomic_add(to, near, static_cast<uint32_t>(piece));
      } else {
        std::memcpy(to, near, piece);
      }
    }
  }
  c.SpendDma(in, bursts, bytes);
}

}  // namespace softnpu

namespace AscendC {

template <typename T>
inline void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyParams& p,
                     Here here = Here()) {
  softnpu::BeginDma("DataCopy", dst, true, here);
  softnpu::CheckBursts(p.blockCount, p.blockLen, 65535);
  const uint32_t bytes = p.blockLen * 32u;
  softnpu::Dma(true, dst, src.GetPhyAddr(), p.blockCount, bytes, bytes + p.dstStride * 32,
               bytes + p.srcStride * 32);
}
template <typename T>
inline void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& p,
                     Here here = Here()) {
  softnpu::BeginDma("DataCopy", src, false, here);
  softnpu::CheckBursts(p.blockCount, p.blockLen, 65535);
  const uint32_t bytes = p.blockLen * 32u;
  softnpu::Dma(false, src, dst.GetPhyAddr(), p.blockCount, bytes, bytes + p.srcStride * 32,
               bytes + p.dstStride * 32);
}
namespace detail {
template <typename T>
inline uint32_t WholeBlocks(uint32_t count) {
  const uint64_t bytes = static_cast<uint64_t>(count) * sizeof(T);
  if (bytes % 32 != 0) {
    softnpu::core().Reject(
        "%u elements of %zu B: DataCopy moves multiples of 32 B, other lengths need DataCopyPad",
        count, sizeof(T));
  }
  if (bytes / 32 > 65535)
    softnpu::core().Reject("%llu bytes, at most 2097120 are possible",
                           static_cast<unsigned long long>(bytes));
  return static_cast<uint32_t>(bytes);
}
}  // namespace detail
template <typename T>
inline void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const uint32_t count,
                     Here here = Here()) {
  softnpu::BeginDma("DataCopy", dst, true, here);
  const uint32_t bytes = detail::WholeBlocks<T>(count);
  softnpu::Dma(true, dst, src.GetPhyAddr(), 1, bytes, bytes, bytes);
}
template <typename T>
inline void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const uint32_t count,
                     Here here = Here()) {
  softnpu::BeginDma("DataCopy", src, false, here);
  const uint32_t bytes = detail::WholeBlocks<T>(count);
  softnpu::Dma(false, src, dst.GetPhyAddr(), 1, bytes, bytes, bytes);
}

// Within UB (the vector pipe), or from L1 to the bias table (MTE1).
template <typename T>
inline void DataCopy(const LocalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& p,
                     Here here = Here()) {
  softnpu::Core& core = softnpu::core();
  const bool bias = src.memory() == softnpu::kL1 && dst.memory() == softnpu::kBiasTable;
  if (bias) {
    core.Begin("DataCopy", softnpu::kMte1, here);
  } else {
    softnpu::BeginVector("DataCopy", here);
  }
  softnpu::CheckBursts(p.blockCount, p.blockLen, 65535);
  if (!bias && (src.memory() != softnpu::kUb || dst.memory() != softnpu::kUb)) {
    core.Reject("no path from %s to %s", softnpu::kMemoryNames[src.memory()],
                softnpu::kMemoryNames[dst.memory()]);
  }
  src.Check("the source");
  dst.Check("the destination");
  const uint32_t unit = bias ? 64 : 32;  // of the destination; a burst to the bias table is 64 B
  const uint32_t bytes = p.blockLen * unit;
  for (uint32_t i = 0; i < p.blockCount; ++i) {
    const uint32_t from = i * (bytes + p.srcStride * 32u);
    src.CheckRange("the source", from, bytes);
    if (bytes) core.Read(src.memory(), src.offset() + from, bytes);
  }
  for (uint32_t i = 0; i < p.blockCount; ++i) {
    const uint32_t from = i * (bytes + p.srcStride * 32u), to = i * (bytes + p.dstStride * unit);
    dst.CheckRange("the destination", to, bytes);
    if (bytes) core.Write(dst.memory(), dst.offset() + to, bytes);
    std::memmove(reinterpret_cast<uint8_t*>(dst.data()) + to,
                 reinterpret_cast<const uint8_t*>(src.data()) + from, bytes);
  }
  if (bias) {
    core.Spend(std::max(32.0, p.blockCount * bytes / 256.0));
  } else {
    core.SpendVector((p.blockCount * bytes + 255) / 256);
  }
}
template <typename T>
inline void DataCopy(const LocalTensor<T>& dst, const LocalTensor<T>& src, const uint32_t count,
                     Here here = Here()) {
  softnpu::core().Begin("DataCopy", softnpu::kV, here);
  const uint32_t unit = dst.memory() == softnpu::kBiasTable ? 64 : 32;
  const uint32_t bytes = detail::WholeBlocks<T>(count);
  DataCopy(dst, src, DataCopyParams(1, static_cast<uint16_t>((bytes + unit - 1) / unit), 0, 0),
           here);
}

template <typename T>
inline void DataCopyPad(const LocalTensor<T>& dst, const GlobalTensor<T>& src,
                        const DataCopyExtParams& p, const DataCopyPadExtParams<T>& pad,
                        Here here = Here()) {
  softnpu::BeginDma("DataCopyPad", dst, true, here);
  softnpu::Core& core = softnpu::core();
  softnpu::CheckBursts(p.blockCount, p.blockLen, 2097151);
  if (p.blockLen % sizeof(T) != 0)
    core.Reject("blocks of %u B of elements of %zu B", p.blockLen, sizeof(T));
  const uint32_t left = pad.leftPadding * sizeof(T), right = pad.rightPadding * sizeof(T);
  if (left > 32 || right > 32)
    core.Reject("padding of %u B, at most 32 are possible", std::max(left, right));
  if (p.blockLen == 0 || p.blockCount == 0) return;
  dst.Check("the destination");
  if (left == 0 && right == 0 && !pad.isPad) {
    softnpu::Dma(true, dst, src.GetPhyAddr(), p.blockCount, p.blockLen,
                 (p.blockLen + 31) / 32 * 32 + static_cast<int64_t>(p.dstStride) * 32,
                 static_cast<int64_t>(p.blockLen) + p.srcStride);
    return;
  }
  const uint32_t filled = left + p.blockLen + right;
  const uint32_t padded = (filled + 31) / 32 * 32;
  for (uint32_t i = 0; i < p.blockCount; ++i) {
    const int64_t at = static_cast<int64_t>(i) * (padded + static_cast<int64_t>(p.dstStride) * 32);
    dst.CheckRange("the destination", at, padded);
    const uint32_t offset = dst.offset() + static_cast<uint32_t>(at);
    uint8_t* to = core.memory[dst.memory()] + offset;
    const uint8_t* from = core.ReadGlobal(
        reinterpret_cast<const uint8_t*>(src.GetPhyAddr()) +
            static_cast<int64_t>(i) * (static_cast<int64_t>(p.blockLen) + p.srcStride),
        p.blockLen);
    core.Write(dst.memory(), offset + (pad.isPad ? 0 : left), pad.isPad ? filled : p.blockLen);
    std::memset(to, 0xFF, padded);
    if (pad.isPad) {
      for (uint32_t b = 0; b < filled; b += sizeof(T))
        std::memcpy(to + b, &pad.paddingValue, sizeof(T));
    }
    std::memcpy(to + left, from, p.blockLen);
  }
  core.SpendDma(true, p.blockCount, p.blockLen);
}
template <typename T>
inline void DataCopyPad(const LocalTensor<T>& dst, const GlobalTensor<T>& src,
                        const DataCopyParams& p, const DataCopyPadParams& pad, Here here = Here()) {
  T value;
  std::memcpy(&value, &pad.paddingValue, sizeof(T));
  DataCopyPad(dst, src, DataCopyExtParams(p.blockCount, p.blockLen, p.srcStride, p.dstStride, 0),
              DataCopyPadExtParams<T>(pad.isPad, pad.leftPadding, pad.rightPadding, value), here);
}
template <typename T>
inline void DataCopyPad(const GlobalTensor<T>& dst, const LocalTensor<T>& src,
                        const DataCopyExtParams& p, Here here = Here()) {
  softnpu::BeginDma("DataCopyPad", src, false, here);
  softnpu::CheckBursts(p.blockCount, p.blockLen, 2097151);
  if (p.blockLen % sizeof(T) != 0)
    softnpu::core().Reject("blocks of %u B of elements of %zu B", p.blockLen, sizeof(T));
  softnpu::Dma(false, src, dst.GetPhyAddr(), p.blockCount, p.blockLen,
               (p.blockLen + 31) / 32 * 32 + static_cast<int64_t>(p.srcStride) * 32,
               static_cast<int64_t>(p.blockLen) + p.dstStride);
}
template <typename T>
inline void DataCopyPad(const GlobalTensor<T>& dst, const LocalTensor<T>& src,
                        const DataCopyParams& p, Here here = Here()) {
  DataCopyPad(dst, src, DataCopyExtParams(p.blockCount, p.blockLen, p.srcStride, p.dstStride, 0),
              here);
}

// Rows of a matrix into the fractal layout of L1: columns of 32 B, each with all its rows.
template <typename T>
inline void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const Nd2NzParams& p,
                     Here here = Here()) {
  softnpu::BeginDma("DataCopy (nd2nz)", dst, true, here);
  softnpu::Core& core = softnpu::core();
  if (p.ndNum > 4095) core.Reject("%d matrices, at most 4095 are possible", p.ndNum);
  if (p.nValue > 16384) core.Reject("%d rows, at most 16384 are possible", p.nValue);
  if (p.dstNzC0Stride > 16384 || p.dstNzNStride > 16384) core.Reject("a stride of more than 16384");
  if (p.ndNum == 0 || p.nValue == 0 || p.dValue == 0) return;
  dst.CheckIn("the destination", softnpu::kL1);
  constexpr uint32_t kC0 = 32 / sizeof(T);
  const uint32_t columns = (p.dValue + kC0 - 1) / kC0;
  for (uint32_t m = 0; m < p.ndNum; ++m) {
    const T* matrix = src.GetPhyAddr() + static_cast<size_t>(m) * p.srcNdMatrixStride;
    const uint32_t base = m * p.dstNzMatrixStride * static_cast<uint32_t>(sizeof(T));
    for (uint32_t column = 0; column < columns; ++column) {
      const uint32_t at = base + column * p.dstNzC0Stride * 32u;
      dst.CheckRange("the destination", at,
                     static_cast<int64_t>(p.nValue - 1) * p.dstNzNStride * 32 + 32);
      if (p.dstNzNStride == 1) {
        core.Write(softnpu::kL1, dst.offset() + at, p.nValue * 32u);
      } else {
        for (uint32_t row = 0; row < p.nValue; ++row)
          core.Write(softnpu::kL1, dst.offset() + at + row * p.dstNzNStride * 32u, 32);
      }
    }
    uint8_t* to = reinterpret_cast<uint8_t*>(dst.data()) + base;
    for (uint32_t row = 0; row < p.nValue; ++row) {
      const uint8_t* from =
          core.ReadGlobal(matrix + static_cast<size_t>(row) * p.srcDValue, p.dValue * sizeof(T));
      for (uint32_t column = 0; column < columns; ++column) {
        uint8_t* cell = to + (column * p.dstNzC0Stride + row * p.dstNzNStride) * 32u;
        const uint32_t bytes = std::min<uint32_t>(32, (p.dValue - column * kC0) * sizeof(T));
        std::memcpy(cell, from + column * 32u, bytes);
        std::memset(cell + bytes, 0, 32 - bytes);
      }
    }
  }
  core.SpendDma(true, static_cast<uint64_t>(p.ndNum) * p.nValue, p.dValue * sizeof(T));
}

}  // namespace AscendC
