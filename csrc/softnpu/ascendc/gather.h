// Instructions that move lanes about: Gather, Gatherb, GatherMask, Brcb, indices, transposition,
// sorting.
#pragma once

#include "reduce.h"

namespace softnpu {

// Rejects a piece of `size` bytes of a tensor that is out of its buffer or not aligned to its size.
template <typename T>
inline void CheckPiece(const AscendC::LocalTensor<T>& src, uint64_t at, uint32_t size) {
  if (at % size != 0) {
    core().Reject("an offset of %llu, which must be a multiple of %u",
                  static_cast<unsigned long long>(at), size);
  }
  src.CheckRange("the source of an offset", static_cast<int64_t>(at), size);
}

// Checks and records the reading of `count` pieces, at (base + offset) bytes.
template <typename T>
inline void ReadPieces(const AscendC::LocalTensor<T>& src, uint32_t base, const uint32_t* offsets,
                       uint64_t count, uint32_t size) {
  uint32_t highest = 0, ragged = base;
  for (uint64_t i = 0; i < count; ++i) {
    highest = std::max(highest, offsets[i]);
    ragged |= offsets[i];
  }
  if (ragged % size != 0) {
    for (uint64_t i = 0; i < count; ++i) CheckPiece(src, uint64_t{base} + offsets[i], size);
  }
  if (count > 0) CheckPiece(src, uint64_t{base} + highest, size);
  core().ReadScattered(src.offset() + base, offsets, count, size);
}

// Checks and performs dst[lane] = src[(base + offset[lane]) bytes].
template <typename T>
inline void GatherRun(const Lanes& lanes, const Strided<T>& dst, const AscendC::LocalTensor<T>& src,
                      const Strided<uint32_t>& offset, uint32_t base) {
  Require<T, half, bfloat16_t, float, int16_t, uint16_t, int32_t, uint32_t>();
  constexpr uint32_t kLanes = 256 / sizeof(T);
  Core& c = core();
  src.CheckIn("the source", kUb);
  Touch<false>(offset, lanes, kLanes, "the offsets");
  const uint8_t* from = c.memory[kUb] + src.offset() + base;
  if (lanes.contiguous) {
    const uint32_t* offsets = offset.tensor.data();
    ReadPieces(src, base, offsets, lanes.count, sizeof(T));
    Touch<true>(dst, lanes, kLanes, "the destination");
    T* out = dst.tensor.data();
    for (uint64_t i = 0; i < lanes.count; ++i) std::memcpy(out + i, from + offsets[i], sizeof(T));
    c.SpendVector(static_cast<uint32_t>((lanes.count + kLanes - 1) / kLanes));
    return;
  }
  const auto each = [&](auto visit) {
    for (uint32_t r = 0; r < lanes.repeats; ++r) {
      const uint32_t limit = lanes.prefix ? lanes.Prefix(r, kLanes) : kLanes;
      for (uint32_t i = 0; i < limit; ++i) {
        if (lanes.prefix || lanes.Has(i)) visit(r, i);
      }
    }
  };
  each([&](uint32_t r, uint32_t i) {
    const uint32_t at = *LaneAt(offset, r, i);
    CheckPiece(src, uint64_t{base} + at, sizeof(T));
    c.Read(kUb, src.offset() + base + at, sizeof(T));
  });
  Touch<true>(dst, lanes, kLanes, "the destination");
  each([&](uint32_t r, uint32_t i) {
    std::memcpy(const_cast<T*>(LaneAt(dst, r, i)), from + *LaneAt(offset, r, i), sizeof(T));
  });
  c.SpendVector(lanes.repeats);
}

// A list of (score, index) of 8 B each, as Sort32 and MrgSort hold them.
template <typename T>
struct Scored {
  T score;
  uint32_t index;
};

template <typename T>
inline Scored<T> LoadScored(const uint8_t* at) {
  Scored<T> value;
  std::memcpy(&value.score, at, sizeof(T));
  std::memcpy(&value.index, at + 4, 4);
  return value;
}
template <typename T>
inline void StoreScored(uint8_t* at, const Scored<T>& value) {
  uint8_t bytes[8] = {};
  std::memcpy(bytes, &value.score, sizeof(T));
  std::memcpy(bytes + 4, &value.index, 4);
  std::memcpy(at, bytes, 8);
}

template <typename T>
inline void GatherMaskRun(const AscendC::LocalTensor<T>& dst, const Strided<T>& src,
                          const uint8_t* bits, uint32_t bits_repeat, uint32_t pattern, bool counter,
                          uint32_t mask, uint32_t repeats, uint64_t& kept) {
  Require<T, half, bfloat16_t, float, int16_t, uint16_t, int32_t, uint32_t>();
  constexpr uint32_t kLanes = 256 / sizeof(T);
  constexpr uint32_t kPerBlock = kBlock / sizeof(T);
  const uint32_t each = counter ? mask : kLanes;
  const auto at = [&](uint32_t r, uint32_t i) {
    return (static_cast<uint64_t>(r) * src.repeat + i / kPerBlock * src.block) * kBlock +
           i % kPerBlock * sizeof(T);
  };
  Core& c = core();
  dst.CheckIn("the destination", kUb);
  src.tensor.CheckIn("the source", kUb);
  for (uint32_t r = 0; r < repeats; ++r) {
    for (uint32_t i = 0; i < each; i += kPerBlock) {
      const uint32_t bytes = std::min(kPerBlock, each - i) * static_cast<uint32_t>(sizeof(T));
      src.tensor.CheckRange("the source", static_cast<int64_t>(at(r, i)), bytes);
      c.Read(kUb, src.tensor.offset() + static_cast<uint32_t>(at(r, i)), bytes);
    }
  }
  const uint8_t* from = c.memory[kUb] + src.tensor.offset();
  std::vector<T> out;
  for (uint32_t r = 0; r < repeats; ++r) {
    for (uint32_t i = 0; i < each; ++i) {
      bool keep;
      switch (pattern) {
        case 0:
          keep = bits[static_cast<size_t>(r) * bits_repeat + i / 8] >> (i % 8) & 1;
          break;
        case 1:
        case 2:
          keep = i % 2 == pattern - 1;
          break;
        case 7:
          keep = true;
          break;
        default:
          keep = i % 4 == pattern - 3;
      }
      if (!keep) continue;
      T value;
      std::memcpy(&value, from + at(r, i), sizeof(T));
      out.push_back(value);
    }
  }
  dst.CheckRange("the destination", 0, static_cast<int64_t>(out.size() * sizeof(T)));
  if (!out.empty()) {
    c.Write(kUb, dst.offset(), static_cast<uint32_t>(out.size() * sizeof(T)));
    std::memcpy(dst.data(), out.data(), out.size() * sizeof(T));
  }
  kept = out.size();
  c.gather_mask_count = static_cast<int64_t>(kept);
  c.SpendVector(repeats * ((each + kLanes - 1) / kLanes));
}

}  // namespace softnpu

namespace AscendC {

template <typename T>
inline void Gather(const LocalTensor<T>& dst, const LocalTensor<T>& src,
                   const LocalTensor<uint32_t>& offset, const uint32_t base, const uint32_t count,
                   Here here = Here()) {
  softnpu::BeginVector("Gather", here);
  softnpu::GatherRun<T>(softnpu::Lanes::Count(count), {dst}, src, {offset, 1, 32 / sizeof(T)},
                        base);
}
template <typename T, typename Mask>
  requires(std::is_convertible_v<Mask, uint64_t> || std::is_convertible_v<Mask, const uint64_t*>)
inline void Gather(const LocalTensor<T>& dst, const LocalTensor<T>& src,
                   const LocalTensor<uint32_t>& offset, const uint32_t base, Mask mask,
                   const int32_t repeat, const uint16_t dst_repeat, Here here = Here()) {
  softnpu::BeginVector("Gather", here);
  softnpu::GatherRun<T>(softnpu::MakeLanes<true>(mask, repeat, 256 / sizeof(T)),
                        {dst, 1, dst_repeat}, src, {offset, 1, 32 / sizeof(T)}, base);
}

// Whole blocks: dst block i of a repeat is the 32 B at the offset i.
template <typename T>
inline void Gatherb(const LocalTensor<T>& dst, const LocalTensor<T>& src,
                    const LocalTensor<uint32_t>& offset, const int32_t repeat,
                    const GatherRepeatParams& p, Here here = Here()) {
  softnpu::BeginVector("Gatherb", here);
  softnpu::Require<T, uint16_t, uint32_t>();
  softnpu::Core& core = softnpu::core();
  if (repeat > 255) core.Reject("%d repeats, at most 255 are possible", repeat);
  dst.CheckIn("the destination", softnpu::kUb);
  src.CheckIn("the source", softnpu::kUb);
  offset.CheckIn("the offsets", softnpu::kUb);
  offset.CheckRange("the offsets", 0, repeat * 32);
  const uint32_t* offsets = offset.data();
  if (repeat > 0) {
    core.Read(softnpu::kUb, offset.offset(), repeat * 32);
    softnpu::ReadPieces(src, 0, offsets, repeat * 8, 32);
  }
  if (p.dstBlkStride == 0)
    core.Reject("dstBlkStride 0: the blocks of a repeat would be written over each other");
  for (int32_t r = 0; r < repeat; ++r) {
    const uint32_t to = r * p.dstRepStride * 32;
    dst.CheckRange("the destination", to, (7 * p.dstBlkStride + 1) * 32);
    core.WriteBlocks(dst.offset() + to, p.dstBlkStride, 8);
    for (uint32_t i = 0; i < 8; ++i)
      std::memcpy(core.memory[softnpu::kUb] + dst.offset() + to + i * p.dstBlkStride * 32,
                  core.memory[softnpu::kUb] + src.offset() + offsets[r * 8 + i], 32);
  }
  core.SpendVector(repeat);
}

template <typename T, typename U, GatherMaskMode mode = defaultGatherMaskMode>
inline void GatherMask(const LocalTensor<T>& dst, const LocalTensor<T>& src,
                       const LocalTensor<U>& pattern, const bool counter, const uint32_t mask,
                       const GatherMaskParams& p, uint64_t& kept, Here here = Here()) {
  softnpu::BeginVector("GatherMask", here);
  softnpu::Core& core = softnpu::core();
  if (sizeof(U) != sizeof(T))
    core.Reject("a pattern of %s for elements of %zu B", softnpu::TypeName<U>(), sizeof(T));
  const uint32_t bytes = counter ? (mask + 7) / 8 : 256 / sizeof(T) / 8;
  const uint32_t stride = p.src1RepeatStride * 32u;
  pattern.CheckIn("the pattern", softnpu::kUb);
  for (uint32_t r = 0; r < p.repeatTimes; ++r) {
    pattern.CheckRange("the pattern", static_cast<int64_t>(r) * stride, bytes);
    core.Read(softnpu::kUb, pattern.offset() + r * stride, bytes);
  }
  softnpu::GatherMaskRun<T>(dst, {src, p.src0BlockStride, p.src0RepeatStride},
                            reinterpret_cast<const uint8_t*>(pattern.data()), stride, 0, counter,
                            mask, p.repeatTimes, kept);
}
template <typename T, GatherMaskMode mode = defaultGatherMaskMode>
inline void GatherMask(const LocalTensor<T>& dst, const LocalTensor<T>& src, const uint8_t pattern,
                       const bool counter, const uint32_t mask, const GatherMaskParams& p,
                       uint64_t& kept, Here here = Here()) {
  softnpu::BeginVector("GatherMask", here);
  if (pattern < 1 || pattern > 7)
    softnpu::core().Reject("a pattern of %d, which must be in [1, 7]", pattern);
  softnpu::GatherMaskRun<T>(dst, {src, p.src0BlockStride, p.src0RepeatStride}, nullptr, 0, pattern,
                            counter, mask, p.repeatTimes, kept);
}
inline int64_t GetGatherMaskRemainCount() { return softnpu::core().gather_mask_count; }

// Each of 8 elements a repeat fills a block.
template <typename T>
inline void Brcb(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t repeat,
                 const BrcbRepeatParams& p, Here here = Here()) {
  softnpu::BeginVector("Brcb", here);
  softnpu::Require<T, half, bfloat16_t, float, int16_t, uint16_t, int32_t, uint32_t>();
  softnpu::Core& core = softnpu::core();
  if (repeat > 255) core.Reject("%d repeats, at most 255 are possible", repeat);
  dst.CheckIn("the destination", softnpu::kUb);
  src.CheckIn("the source", softnpu::kUb);
  src.CheckRange("the source", 0, static_cast<int64_t>(repeat) * 8 * sizeof(T));
  if (repeat > 0) core.Read(softnpu::kUb, src.offset(), repeat * 8 * sizeof(T));
  std::vector<T> values(src.data(), src.data() + repeat * 8);
  for (int32_t i = 0; i < repeat * 8; ++i) {
    const uint32_t to = (i / 8 * p.dstRepStride + i % 8 * p.dstBlkStride) * 32;
    dst.CheckRange("the destination", to, 32);
    if (p.dstBlkStride != 1)
      core.Write(softnpu::kUb, dst.offset() + to, 32);
    else if (i % 8 == 0)
      core.Write(softnpu::kUb, dst.offset() + to, 256);
    std::fill_n(dst.data() + to / sizeof(T), 32 / sizeof(T), values[i]);
  }
  core.SpendVector(repeat);
}

// What CANN composes of scalar writes and vector additions: on the hardware the first block is not
// ordered behind vector work that still uses the buffer, and the rest is an Adds a block or repeat.
namespace detail {
// The scalar unit writes the lanes of dst that `has` names, and the vector pipe waits for it.
template <typename T, typename Has>
inline void IndexWrite(const LocalTensor<T>& dst, T first, T step, uint32_t lanes, uint16_t block,
                       const Has& has, Here here) {
  softnpu::Require<T, half, float, int16_t, int32_t>();
  constexpr uint32_t kPerBlock = 32 / sizeof(T);
  for (uint32_t i = 0; i < lanes; ++i) {
    if (!has(i)) continue;
    dst.SetValue(i / kPerBlock * kPerBlock * block + i % kPerBlock,
                 softnpu::Wide(first) + softnpu::Wide(step) * static_cast<float>(i), here);
  }
  softnpu::Pass<HardEvent::S_V>(here);
}

template <typename T, typename Mask>
inline void IndexAdd(const LocalTensor<T>& dst, uint32_t to, uint32_t from, uint32_t lanes, T step,
                     Mask mask, uint16_t block, Here here) {
  Adds(dst[to], dst[from], static_cast<T>(softnpu::Wide(step) * static_cast<float>(lanes)), mask, 1,
       UnaryRepeatParams(block, block, 8, 8), here);
  PipeBarrier<PIPE_V>(here);
}

// Counts on from the first block by blocks, then by repeats.
template <typename T>
inline void IndexCount(const LocalTensor<T>& dst, T first, T step, uint32_t count, Here here) {
  constexpr uint32_t kPerBlock = 32 / sizeof(T), kPerRepeat = 256 / sizeof(T);
  IndexWrite(dst, first, step, kPerBlock, 1, [](uint32_t) { return true; }, here);
  for (uint32_t done = kPerBlock; done < count;) {
    const uint32_t length = done < kPerRepeat ? kPerBlock : kPerRepeat;
    const uint32_t lanes = std::min(length, count - done);
    IndexAdd(dst, done, done - length, length, step, static_cast<uint64_t>(lanes), 1, here);
    done += lanes;
  }
}
}  // namespace detail

template <typename T>
inline void CreateVecIndex(LocalTensor<T> dst, const T& first, uint32_t count, Here here = Here()) {
  detail::IndexCount(dst, first, static_cast<T>(1), count, here);
}
template <typename T, typename Mask>
  requires(std::is_convertible_v<Mask, uint64_t> || std::is_convertible_v<Mask, const uint64_t*>)
inline void CreateVecIndex(LocalTensor<T>& dst, const T& first, Mask mask, int32_t repeat,
                           uint16_t block, uint8_t stride, Here here = Here()) {
  constexpr uint32_t kPerBlock = 32 / sizeof(T), kPerRepeat = 256 / sizeof(T);
  const T one = static_cast<T>(1);
  if constexpr (std::is_convertible_v<Mask, uint64_t>) {
    const uint32_t lanes = static_cast<uint32_t>(mask);
    detail::IndexWrite(
        dst, first, one, std::min(lanes, kPerBlock), 1, [](uint32_t) { return true; }, here);
    for (uint32_t done = kPerBlock; done < lanes; done += kPerBlock) {
      const uint32_t to = done * block;
      detail::IndexAdd(dst, to, to - kPerBlock * block, kPerBlock, one,
                       static_cast<uint64_t>(std::min(kPerBlock, lanes - done)), 1, here);
    }
  } else {
    detail::IndexWrite(
        dst, first, one, kPerRepeat, block,
        [&](uint32_t i) { return mask[i / 64] >> (i % 64) & 1; }, here);
  }
  for (int32_t r = 1; r < repeat; ++r) {
    const uint32_t to = r * stride * kPerBlock;
    detail::IndexAdd(dst, to, to - stride * kPerBlock, kPerRepeat, one, mask, block, here);
  }
}
// first, first + step, ...: of the high-level API.
template <typename T>
inline void ArithProgression(const LocalTensor<T>& dst, const T first, const T step,
                             const int32_t count, Here here = Here()) {
  detail::IndexCount(dst, first, step, static_cast<uint32_t>(count), here);
}

// A 16 x 16 matrix of 16-bit elements.
template <typename T>
inline void Transpose(const LocalTensor<T>& dst, const LocalTensor<T>& src, Here here = Here()) {
  softnpu::BeginVector("Transpose", here);
  softnpu::Require<T, half, int16_t, uint16_t>();
  softnpu::Core& core = softnpu::core();
  dst.CheckIn("the destination", softnpu::kUb);
  src.CheckIn("the source", softnpu::kUb);
  dst.CheckRange("the destination", 0, 512);
  src.CheckRange("the source", 0, 512);
  core.Read(softnpu::kUb, src.offset(), 512);
  core.Write(softnpu::kUb, dst.offset(), 512);
  T values[256];
  std::memcpy(values, src.data(), 512);
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 16; ++j) dst.data()[j * 16 + i] = values[i * 16 + j];
  }
  core.SpendVector(2);
}

// 16 blocks in, transposed, 16 blocks out, by their addresses; element j of block i goes to element
// i of block j.
template <typename T>
inline void TransDataTo5HD(uint64_t dst[NCHW_CONV_ADDR_LIST_SIZE],
                           uint64_t src[NCHW_CONV_ADDR_LIST_SIZE], const TransDataTo5HDParams& p,
                           Here here = Here()) {
  softnpu::BeginVector("TransDataTo5HD", here);
  softnpu::Require<T, half, int16_t, uint16_t, float, int32_t, uint32_t>();
  constexpr uint32_t kPerBlock = 32 / sizeof(T);
  softnpu::Core& core = softnpu::core();
  uint8_t* ub = core.memory[softnpu::kUb];
  const auto at = [&](uint64_t address, uint32_t offset) {
    const uint64_t start = address + offset;
    if (start % 32 != 0)
      core.Reject("byte %llu of UB, which must be a multiple of 32",
                  static_cast<unsigned long long>(start));
    if (start + 32 > TOTAL_UB_SIZE)
      core.Reject("byte %llu is out of UB", static_cast<unsigned long long>(start));
    return static_cast<uint32_t>(start);
  };
  for (uint32_t r = 0; r < p.repeatTimes; ++r) {
    T rows[16][kPerBlock];
    for (int i = 0; i < 16; ++i) {
      const uint32_t from = at(src[i], r * p.srcRepStride * 32u);
      core.Read(softnpu::kUb, from, 32);
      std::memcpy(rows[i], ub + from, 32);
    }
    for (uint32_t i = 0; i < 16; ++i) {
      T out[kPerBlock];
      for (uint32_t j = 0; j < kPerBlock; ++j) {
        // Blocks of 8 elements come in pairs: 16 elements of one column.
        out[j] = kPerBlock == 16 ? rows[j][i] : rows[i % 2 * kPerBlock + j][i / 2];
      }
      const uint32_t to = at(dst[i], r * p.dstRepStride * 32u);
      core.Write(softnpu::kUb, to, 32);
      std::memcpy(ub + to, out, 32);
    }
  }
  core.SpendVector(p.repeatTimes * 2);
}
template <typename T>
inline void TransDataTo5HD(const LocalTensor<T> (&dst)[NCHW_CONV_ADDR_LIST_SIZE],
                           const LocalTensor<T> (&src)[NCHW_CONV_ADDR_LIST_SIZE],
                           const TransDataTo5HDParams& p, Here here = Here()) {
  uint64_t to[16], from[16];
  for (int i = 0; i < 16; ++i) {
    to[i] = dst[i].GetPhyAddr();
    from[i] = src[i].GetPhyAddr();
  }
  TransDataTo5HD<T>(to, from, p, here);
}

// 32 scores with their indices, highest first; equal scores keep their order.
template <typename T>
inline void Sort32(const LocalTensor<T>& dst, const LocalTensor<T>& src,
                   const LocalTensor<uint32_t>& index, const int32_t repeat, Here here = Here()) {
  softnpu::BeginVector("Sort32", here);
  softnpu::Require<T, half, float>();
  softnpu::Core& core = softnpu::core();
  if (repeat < 0 || repeat > 255) core.Reject("%d repeats, at most 255 are possible", repeat);
  dst.CheckIn("the destination", softnpu::kUb);
  src.CheckIn("the source", softnpu::kUb);
  index.CheckIn("the indices", softnpu::kUb);
  dst.CheckRange("the destination", 0, repeat * 256);
  src.CheckRange("the source", 0, static_cast<int64_t>(repeat) * 32 * sizeof(T));
  index.CheckRange("the indices", 0, repeat * 128);
  if (repeat == 0) return;
  core.Read(softnpu::kUb, src.offset(), repeat * 32 * sizeof(T));
  core.Read(softnpu::kUb, index.offset(), repeat * 128);
  core.Write(softnpu::kUb, dst.offset(), repeat * 256);
  for (int32_t r = 0; r < repeat; ++r) {
    softnpu::Scored<T> values[32];
    for (int i = 0; i < 32; ++i) values[i] = {src.data()[r * 32 + i], index.data()[r * 32 + i]};
    std::stable_sort(values, values + 32,
                     [](const auto& a, const auto& b) { return a.score > b.score; });
    for (int i = 0; i < 32; ++i)
      softnpu::StoreScored(reinterpret_cast<uint8_t*>(dst.data()) + (r * 32 + i) * 8, values[i]);
  }
  core.SpendVector(repeat);
}

template <typename T>
struct MrgSortSrcList {
  MrgSortSrcList() {}
  MrgSortSrcList(const LocalTensor<T>& a, const LocalTensor<T>& b, const LocalTensor<T>& c,
                 const LocalTensor<T>& d)
      : src1(a), src2(b), src3(c), src4(d) {}
  LocalTensor<T> src1;
  LocalTensor<T> src2;
  LocalTensor<T> src3;
  LocalTensor<T> src4;
};

// Merges up to four sorted lists of (score, index).
template <typename T>
inline void MrgSort(const LocalTensor<T>& dst, const MrgSortSrcList<T>& lists,
                    const MrgSort4Info& info, Here here = Here()) {
  softnpu::BeginVector("MrgSort", here);
  softnpu::Require<T, half, float>();
  softnpu::Core& core = softnpu::core();
  const LocalTensor<T>* const sources[] = {&lists.src1, &lists.src2, &lists.src3, &lists.src4};
  if (info.validBit != 3 && info.validBit != 7 && info.validBit != 15)
    core.Reject("validBit %d, which must be 3, 7 or 15", info.validBit);
  const int count = std::popcount(info.validBit);
  uint32_t total = 0;
  for (int i = 0; i < count; ++i) {
    if (info.elementLengths[i] > 4095)
      core.Reject("a list of %d elements, at most 4095 are possible", info.elementLengths[i]);
    sources[i]->CheckIn("a list", softnpu::kUb, 8);
    sources[i]->CheckRange("a list", 0,
                           static_cast<int64_t>(info.repeatTimes) * info.elementLengths[i] * 8);
    total += info.elementLengths[i];
  }
  if (info.repeatTimes > 1 && (count != 4 || info.ifExhaustedSuspension))
    core.Reject("repeats of MrgSort take four lists and no suspension");
  dst.CheckIn("the destination", softnpu::kUb);
  dst.CheckRange("the destination", 0, static_cast<int64_t>(info.repeatTimes) * total * 8);
  std::vector<softnpu::Scored<T>> merged;
  for (uint32_t r = 0; r < info.repeatTimes; ++r) {
    const uint8_t* at[4];
    uint32_t left[4] = {};
    for (int i = 0; i < count; ++i) {
      const uint32_t offset = sources[i]->offset() + r * total * 8;
      if (info.elementLengths[i]) core.Read(softnpu::kUb, offset, info.elementLengths[i] * 8);
      at[i] = core.memory[softnpu::kUb] + offset;
      left[i] = info.elementLengths[i];
    }
    for (;;) {
      int best = -1;
      softnpu::Scored<T> value{};
      bool exhausted = false;
      for (int i = 0; i < count; ++i) {
        exhausted |= left[i] == 0;
        if (left[i] == 0) continue;
        const auto head = softnpu::LoadScored<T>(at[i]);
        if (best < 0 || head.score > value.score) {
          best = i;
          value = head;
        }
      }
      if (best < 0 || (exhausted && info.ifExhaustedSuspension)) break;
      merged.push_back(value);
      at[best] += 8;
      --left[best];
    }
    for (int i = 0; i < count; ++i)
      core.mrg_sorted[i] = static_cast<uint16_t>(info.elementLengths[i] - left[i]);
  }
  if (!merged.empty())
    core.Write(softnpu::kUb, dst.offset(), static_cast<uint32_t>(merged.size() * 8));
  for (size_t i = 0; i < merged.size(); ++i)
    softnpu::StoreScored(reinterpret_cast<uint8_t*>(dst.data()) + i * 8, merged[i]);
  core.SpendVector((total * info.repeatTimes * 8 + 255) / 256);
}
inline void GetMrgSortResult(uint16_t& list1, uint16_t& list2, uint16_t& list3, uint16_t& list4) {
  const softnpu::Core& core = softnpu::core();
  list1 = core.mrg_sorted[0];
  list2 = core.mrg_sorted[1];
  list3 = core.mrg_sorted[2];
  list4 = core.mrg_sorted[3];
}

}  // namespace AscendC
