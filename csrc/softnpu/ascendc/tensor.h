// LocalTensor and GlobalTensor: typed views of a core's memories and of global memory.
#pragma once

#include "core.h"

namespace AscendC {

using softnpu::Here;

template <typename T>
class LocalTensor {
 public:
  using PrimType = T;

  LocalTensor() = default;
  LocalTensor(softnpu::Memory memory, TPosition position, uint32_t begin, uint32_t end,
              void* buffer)
      : memory_(memory),
        position_(position),
        offset_(begin),
        size_(end - begin),
        begin_(begin),
        end_(end),
        buffer_(buffer) {}

  LocalTensor operator[](uint32_t offset) const {
    LocalTensor other = *this;
    other.offset_ += offset * static_cast<uint32_t>(sizeof(T));
    const uint32_t bytes = offset * static_cast<uint32_t>(sizeof(T));
    other.size_ = size_ > bytes ? size_ - bytes : 0;
    return other;
  }

  template <typename U>
  LocalTensor<U> ReinterpretCast() const {
    LocalTensor<U> other;
    other.memory_ = memory_;
    other.position_ = position_;
    other.offset_ = offset_;
    other.size_ = size_;
    other.begin_ = begin_;
    other.end_ = end_;
    other.buffer_ = buffer_;
    return other;
  }

  T GetValue(uint32_t index, Here here = Here()) const {
    T value;
    std::memcpy(&value, ScalarAccess("GetValue", index, false, here), sizeof(T));
    return value;
  }
  template <typename U>
  void SetValue(uint32_t index, U value, Here here = Here()) const {
    const T converted = static_cast<T>(value);
    std::memcpy(ScalarAccess("SetValue", index, true, here), &converted, sizeof(T));
  }
  uint32_t GetSize() const { return size_ / sizeof(T); }
  void SetSize(uint32_t size) { size_ = size * sizeof(T); }
  uint32_t GetLength() const { return size_; }
  int32_t GetPosition() const { return static_cast<int32_t>(position_); }
  uint64_t GetPhyAddr() const { return offset_; }
  uint64_t GetPhyAddr(uint32_t index) const { return offset_ + index * sizeof(T); }
  void SetUserTag(int32_t tag) { tag_ = tag; }
  int32_t GetUserTag() const { return tag_; }

  softnpu::Memory memory() const { return memory_; }
  uint32_t offset() const { return offset_; }
  void* buffer() const { return buffer_; }
  T* data() const { return reinterpret_cast<T*>(softnpu::core().memory[memory_] + offset_); }

  // Rejects the instruction at hand where the tensor starts off a block, or `bytes` from `from`
  // leave its buffer.
  void Check(const char* what, uint32_t alignment = softnpu::kBlock) const {
    if (memory_ == softnpu::kMemories)
      softnpu::core().Reject("%s is a tensor with no memory", what);
    if (offset_ % alignment != 0) {
      softnpu::core().Reject("%s starts at byte %u of %s, which must be a multiple of %u", what,
                             offset_, softnpu::kMemoryNames[memory_], alignment);
    }
  }
  void CheckIn(const char* what, softnpu::Memory memory,
               uint32_t alignment = softnpu::kBlock) const {
    Check(what, alignment);
    if (memory_ != memory) {
      softnpu::core().Reject("%s must be in %s, was in %s", what, softnpu::kMemoryNames[memory],
                             softnpu::kMemoryNames[memory_]);
    }
  }
  void CheckRange(const char* what, int64_t from, int64_t bytes) const {
    if (offset_ + from < begin_ || offset_ + from + bytes > end_) {
      softnpu::core().Reject("%s is out of its buffer: bytes [%lld, %lld) of a buffer of %u bytes",
                             what, static_cast<long long>(offset_ - begin_ + from),
                             static_cast<long long>(offset_ - begin_ + from + bytes),
                             end_ - begin_);
    }
  }

 private:
  template <typename U>
  friend class LocalTensor;

  uint8_t* ScalarAccess(const char* name, uint32_t index, bool write, const Here& here) const {
    softnpu::Core& core = softnpu::core();
    core.Begin(name, softnpu::kS, here);
    Check("the tensor", sizeof(T));
    const int64_t from = static_cast<int64_t>(index) * static_cast<int64_t>(sizeof(T));
    CheckRange("the element", from, sizeof(T));
    const uint32_t at = offset_ + static_cast<uint32_t>(from);
    if (write) {
      core.Write(memory_, at, sizeof(T));
    } else {
      core.Read(memory_, at, sizeof(T));
    }
    ++core.scalar_local;
    core.Spend(softnpu::Cycles(10));
    return core.memory[memory_] + at;
  }

  softnpu::Memory memory_ = softnpu::kMemories;
  TPosition position_ = TPosition::MAX;
  uint32_t offset_ = 0;
  uint32_t size_ = 0;
  uint32_t begin_ = 0;
  uint32_t end_ = 0;
  int32_t tag_ = 0;
  void* buffer_ = nullptr;
};

template <typename T>
class GlobalTensor {
 public:
  using PrimType = T;

  void SetGlobalBuffer(T* buffer, uint64_t size) {
    address_ = buffer;
    size_ = size;
  }
  void SetGlobalBuffer(T* buffer) { SetGlobalBuffer(buffer, 0); }
  GlobalTensor operator[](uint64_t offset) const {
    GlobalTensor other = *this;
    other.address_ += offset;
    return other;
  }
  const T* GetPhyAddr() const { return address_; }
  T* GetPhyAddr(uint64_t offset) const { return address_ + offset; }
  uint64_t GetSize() const { return size_; }
  void SetL2CacheHint(CacheMode) {}

  T GetValue(uint64_t offset, Here here = Here()) const {
    softnpu::Core& core = softnpu::core();
    core.Begin("GetValue", softnpu::kS, here);
    T value;
    std::memcpy(&value, core.ReadGlobal(address_ + offset, sizeof(T)), sizeof(T));
    ++core.scalar_global;
    core.Spend(softnpu::Cycles(400));
    return value;
  }
  void SetValue(uint64_t offset, T value, Here here = Here()) const {
    softnpu::Core& core = softnpu::core();
    core.Begin("SetValue", softnpu::kS, here);
    std::memcpy(core.WriteGlobal(address_ + offset, sizeof(T), true), &value, sizeof(T));
    ++core.scalar_global;
    core.Spend(softnpu::Cycles(400));
  }

 private:
  T* address_ = nullptr;
  uint64_t size_ = 0;
};

}  // namespace AscendC
