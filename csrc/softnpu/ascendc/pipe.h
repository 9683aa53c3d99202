// TPipe, TQue, TQueBind and TBuf: who owns which bytes of a core's memories, and the hand-over
// between pipes.
#pragma once

#include <deque>

#include "sync.h"

namespace softnpu {

enum class BufferState : uint8_t { kFree, kTaken, kQueued, kDequeued };

struct Buffer {
  QueueState* queue = nullptr;
  uint32_t offset = 0;
  uint32_t bytes = 0;
  BufferState state = BufferState::kFree;
  Here here;            // of the last change of state
  bool handed = false;  // `flag` is raised: by EnQue for DeQue, by FreeTensor for AllocTensor
  int event = -1;
  Flag flag;
};

struct QueueState {
  Memory memory = kUb;
  AscendC::TPosition position = AscendC::TPosition::MAX;
  Pipe producer = kPipes;
  Pipe consumer = kPipes;
  int depth = 0;
  std::vector<Buffer> buffers;
  std::deque<Buffer*> queued;
  size_t cursor = 0;
};

// The pipes that fill and drain the buffers of a queue from one position to another.
constexpr std::pair<Pipe, Pipe> QueuePipes(AscendC::TPosition from, AscendC::TPosition to) {
  using AscendC::TPosition;
  const Memory source =
      from == TPosition::GM || from == TPosition::CO2 ? kMemories : ToMemory(from);
  const Memory target = to == TPosition::GM || to == TPosition::CO2 ? kMemories : ToMemory(to);
  if (source == kMemories)
    return target == kUb   ? std::pair{kMte2, kV}
           : target == kL1 ? std::pair{kMte2, kMte1}
                           : std::pair{kMte2, kM};
  if (source == kUb)
    return target == kMemories ? std::pair{kV, kMte3}
           : target == kL1     ? std::pair{kMte3, kMte1}
                               : std::pair{kMte2, kMte3};
  if (source == kL1)
    return target == kFixBuffer ? std::pair{kMte1, kFix}
           : target == kUb      ? std::pair{kMte1, kV}
                                : std::pair{kMte1, kM};
  return {kM, kFix};
}

constexpr AscendC::TPosition QueueFrom(AscendC::TPosition position) {
  using AscendC::TPosition;
  switch (position) {
    case TPosition::A1:
    case TPosition::B1:
    case TPosition::C1:
    case TPosition::VECIN:
    case TPosition::TSCM:
      return TPosition::GM;
    case TPosition::A2:
      return TPosition::A1;
    case TPosition::B2:
      return TPosition::B1;
    case TPosition::C2:
    case TPosition::C2PIPE2GM:
      return TPosition::C1;
    default:
      return position;
  }
}
constexpr AscendC::TPosition QueueTo(AscendC::TPosition position) {
  using AscendC::TPosition;
  return position == TPosition::VECOUT || position == TPosition::CO1 ? TPosition::GM : position;
}

}  // namespace softnpu

namespace AscendC {

struct TQueConfig {
  bool nd2nz = false;
  bool nz2nd = false;
  bool scmBlockGroup = false;
  uint32_t bufferLen = 0;
  uint32_t bufferNumber = 0;
  uint32_t consumerSize = 0;
  TPosition consumer[8] = {};
  bool enableStaticEvtId = false;
  bool enableLoopQueue = false;
};

class TPipe;

template <TPosition src, TPosition dst, int32_t depth, auto mask = 0>
class TQueBind {
 public:
  static constexpr bool kIsQueue = true;
  // The position whose memory holds the buffers: the one that is not global memory.
  static constexpr TPosition kPosition =
      src == TPosition::GM || (dst != TPosition::GM && src != TPosition::CO1) ? dst : src;

  template <typename T>
  LocalTensor<T> AllocTensor(Here here = Here()) {
    softnpu::Core& core = Begin("AllocTensor", here);
    auto& buffers = state_->buffers;
    for (size_t i = 0; i < buffers.size(); ++i) {
      softnpu::Buffer& buffer = buffers[(state_->cursor + i) % buffers.size()];
      if (buffer.state != softnpu::BufferState::kFree) continue;
      state_->cursor = (state_->cursor + i + 1) % buffers.size();
      if (buffer.handed) TakeOver(core, buffer, state_->consumer, state_->producer);
      buffer.state = softnpu::BufferState::kTaken;
      buffer.here = here;
      return Tensor<T>(buffer);
    }
    core.Reject(
        "AllocTensor of a queue whose %zu buffers are all taken (the last at line %d): FreeTensor "
        "is missing",
        buffers.size(), buffers.empty() ? 0 : buffers.back().here.line);
  }

  template <typename T>
  void FreeTensor(LocalTensor<T>& tensor, Here here = Here()) {
    softnpu::Core& core = Begin("FreeTensor", here);
    softnpu::Buffer& buffer = Find(core, tensor);
    if (buffer.state == softnpu::BufferState::kFree)
      core.Reject("FreeTensor of a tensor that is free already");
    if (buffer.state == softnpu::BufferState::kQueued)
      core.Reject("FreeTensor of a tensor that is in the queue: DeQue it first");
    buffer.state = softnpu::BufferState::kFree;
    buffer.here = here;
    HandOver(core, buffer, state_->consumer, state_->producer);
  }

  template <typename T>
  bool EnQue(const LocalTensor<T>& tensor, Here here = Here()) {
    softnpu::Core& core = Begin("EnQue", here);
    softnpu::Buffer& buffer = Find(core, tensor);
    if (buffer.state == softnpu::BufferState::kFree)
      core.Reject("EnQue of a tensor that is not allocated");
    if (buffer.state == softnpu::BufferState::kQueued)
      core.Reject("EnQue of a tensor that is in the queue already");
    if (static_cast<int>(state_->queued.size()) >= state_->depth) {
      core.Reject("EnQue beyond the queue's depth of %d", state_->depth);
    }
    buffer.state = softnpu::BufferState::kQueued;
    buffer.here = here;
    HandOver(core, buffer, state_->producer, state_->consumer);
    state_->queued.push_back(&buffer);
    return true;
  }

  template <typename T>
  LocalTensor<T> DeQue(Here here = Here()) {
    softnpu::Core& core = Begin("DeQue", here);
    if (state_->queued.empty()) core.Reject("DeQue of an empty queue: EnQue is missing");
    softnpu::Buffer& buffer = *state_->queued.front();
    state_->queued.pop_front();
    TakeOver(core, buffer, state_->producer, state_->consumer);
    buffer.state = softnpu::BufferState::kDequeued;
    buffer.here = here;
    return Tensor<T>(buffer);
  }

  bool VacantInQue() { return static_cast<int>(state_->queued.size()) < state_->depth; }
  bool HasTensorInQue() { return !state_->queued.empty(); }
  int32_t GetTensorCountInQue() { return static_cast<int32_t>(state_->queued.size()); }
  bool HasIdleBuffer() {
    for (const softnpu::Buffer& buffer : state_->buffers) {
      if (buffer.state == softnpu::BufferState::kFree) return true;
    }
    return false;
  }
  void FreeAllEvent() {}

 private:
  friend class TPipe;

  softnpu::Core& Begin(const char* name, const Here& here) {
    softnpu::Core& core = softnpu::core();
    core.Begin(name, softnpu::kS, here);
    if (state_ == nullptr)
      core.Reject("%s of a queue without buffers: TPipe::InitBuffer is missing", name);
    core.Spend(softnpu::Cycles(1));
    return core;
  }
  template <typename T>
  softnpu::Buffer& Find(const softnpu::Core& core, const LocalTensor<T>& tensor) {
    auto* buffer = static_cast<softnpu::Buffer*>(tensor.buffer());
    if (buffer == nullptr || buffer->queue != state_)
      core.Reject("%s of a tensor that is not of this queue", core.name);
    return *buffer;
  }
  static void HandOver(softnpu::Core& core, softnpu::Buffer& buffer, softnpu::Pipe from,
                       softnpu::Pipe to) {
    buffer.event = core.TakeEvent(from, to);
    core.queue_events[from][to] |= 1u << buffer.event;
    buffer.flag = core.Release(from, Here(core.file, core.line));
    buffer.handed = true;
  }
  static void TakeOver(softnpu::Core& core, softnpu::Buffer& buffer, softnpu::Pipe from,
                       softnpu::Pipe to) {
    core.GiveEvent(from, to, buffer.event);
    core.queue_events[from][to] &= ~(1u << buffer.event);
    core.Acquire(to, buffer.flag);
    buffer.handed = false;
  }
  template <typename T>
  LocalTensor<T> Tensor(softnpu::Buffer& buffer) {
    return LocalTensor<T>(state_->memory, state_->position, buffer.offset,
                          buffer.offset + buffer.bytes, &buffer);
  }

  softnpu::QueueState* state_ = nullptr;
};

template <TPosition pos, int32_t depth, auto mask = 0>
class TQue : public TQueBind<softnpu::QueueFrom(pos), softnpu::QueueTo(pos), depth, mask> {};

template <TPosition pos, int32_t depth = 1, auto mask = 0>
using TSCM = TQueBind<pos, TPosition::TSCM, depth, mask>;

template <TPosition pos = TPosition::LCM>
class TBuf {
 public:
  static constexpr bool kIsQueue = false;

  template <typename T>
  LocalTensor<T> Get() {
    return GetWithOffset<T>(bytes_ / sizeof(T), 0);
  }
  template <typename T>
  LocalTensor<T> Get(uint32_t length) {
    return GetWithOffset<T>(length, 0);
  }
  template <typename T>
  LocalTensor<T> GetWithOffset(uint32_t length, uint32_t offset) {
    const uint32_t end = offset + (length * static_cast<uint32_t>(sizeof(T)) + 31) / 32 * 32;
    if (end > bytes_) {
      softnpu::core().Reject("TBuf::Get of bytes [%u, %u) of a buffer of %u bytes", offset, end,
                             bytes_);
    }
    LocalTensor<T> tensor(softnpu::ToMemory(pos), pos, offset_ + offset, offset_ + end, nullptr);
    tensor.SetSize(length);
    return tensor;
  }

 private:
  friend class TPipe;
  uint32_t offset_ = 0;
  uint32_t bytes_ = 0;
};

class TPipe {
 public:
  TPipe() { Init(); }
  ~TPipe() = default;
  TPipe(const TPipe&) = delete;

  void Init() {
    softnpu::core().tpipe = this;
    for (uint32_t& used : used_) used = 0;
  }

  template <TPosition src, TPosition dst, int32_t depth, auto mask>
  bool InitBuffer(TQueBind<src, dst, depth, mask>& queue, uint8_t number, uint32_t length,
                  Here here = Here()) {
    constexpr TPosition kPosition = TQueBind<src, dst, depth, mask>::kPosition;
    softnpu::Core& core = Begin(here);
    if (number == 0) core.Reject("InitBuffer of no buffer");
    auto* state = new softnpu::QueueState;
    core.queues.push_back(state);
    state->memory = softnpu::ToMemory(kPosition);
    state->position = kPosition;
    std::tie(state->producer, state->consumer) = softnpu::QueuePipes(src, dst);
    state->depth = depth;
    state->buffers.resize(number);
    for (softnpu::Buffer& buffer : state->buffers) {
      buffer.queue = state;
      buffer.bytes = (length + 31) / 32 * 32;
      buffer.offset = Take(core, state->memory, buffer.bytes);
    }
    queue.state_ = state;
    return true;
  }

  template <TPosition pos>
  bool InitBuffer(TBuf<pos>& buffer, uint32_t length, Here here = Here()) {
    softnpu::Core& core = Begin(here);
    buffer.bytes_ = (length + 31) / 32 * 32;
    buffer.offset_ = Take(core, softnpu::ToMemory(pos), buffer.bytes_);
    return true;
  }

  template <HardEvent event>
  TEventID AllocEventID(Here here = Here()) {
    softnpu::Core& core = softnpu::core();
    core.Begin("AllocEventID", softnpu::kS, here);
    constexpr auto pipes = softnpu::EventPipes(event);
    return static_cast<TEventID>(core.TakeEvent(pipes.first, pipes.second));
  }
  template <HardEvent event>
  void ReleaseEventID(TEventID id) {
    constexpr auto pipes = softnpu::EventPipes(event);
    softnpu::core().GiveEvent(pipes.first, pipes.second, id);
  }
  template <HardEvent event>
  TEventID FetchEventID(Here here = Here()) {
    return FetchEventID(event, here);
  }
  TEventID FetchEventID(HardEvent event, Here here = Here()) {
    softnpu::Core& core = softnpu::core();
    core.Begin("FetchEventID", softnpu::kS, here);
    const auto pipes = softnpu::EventPipes(event);
    const int id = core.TakeEvent(pipes.first, pipes.second);
    core.GiveEvent(pipes.first, pipes.second, id);
    return static_cast<TEventID>(id);
  }

  void Reset(Here here = Here()) {
    softnpu::Core& core = Begin(here);
    core.CheckQueues();
    core.BarrierAll(here);
    Init();
  }
  void Destroy(Here here = Here()) { Reset(here); }

 private:
  static softnpu::Core& Begin(const Here& here) {
    softnpu::Core& core = softnpu::core();
    core.Begin("InitBuffer", softnpu::kS, here);
    return core;
  }
  uint32_t Take(softnpu::Core& core, softnpu::Memory memory, uint32_t bytes) {
    const uint32_t offset = used_[memory];
    if (offset + static_cast<uint64_t>(bytes) > softnpu::kMemoryBytes[memory]) {
      core.Reject("TPipe hands out %llu bytes of %s, which has %u",
                  static_cast<unsigned long long>(offset) + bytes, softnpu::kMemoryNames[memory],
                  softnpu::kMemoryBytes[memory]);
    }
    used_[memory] += bytes;
    if (memory == softnpu::kUb) core.ub_handed_out = std::max(core.ub_handed_out, used_[memory]);
    return offset;
  }

  uint32_t used_[softnpu::kMemories] = {};
};

}  // namespace AscendC

inline AscendC::TPipe* GetTPipePtr() { return static_cast<AscendC::TPipe*>(softnpu::core().tpipe); }
