// What an instruction may do: order, alignment of events, live global memory; and what it costs.
#include "core.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "global_memory.h"
#include "launch.h"
#include "pipe.h"
#include "scheduler.h"

namespace softnpu {

Core* g_core = nullptr;
bool g_checks = true;
BadField g_bad_field;
int g_block_dim = 1;
int g_sub_blocks = 1;

namespace {

// The pipes that can reach a memory.
struct PipeList {
  Pipe pipes[4];
  int count;
};
constexpr PipeList kReach[kMemories] = {
    {{kS, kV, kMte2, kMte3}, 4},
    {{kMte1, kMte2, kFix}, 3},
    {{kMte1, kM}, 2},
    {{kMte1, kM}, 2},
    {{kM, kFix}, 2},
    {{kMte1, kM}, 2},
    {{kMte1, kFix}, 2},
};

// The bytes of a block that [begin, end) covers, a bit each.
uint32_t ByteMask(uint32_t block, uint32_t begin, uint32_t end) {
  const uint32_t from = std::max(begin, block * kBlock) - block * kBlock;
  const uint32_t to = std::min(end, (block + 1) * kBlock) - block * kBlock;
  return (to == 32 ? ~0u : (1u << to) - 1) & ~((1u << from) - 1);
}

int32_t Highest(const int32_t* values, uint32_t first, uint32_t last) {
  int32_t highest = 0;
  for (uint32_t i = first; i <= last; ++i) highest = std::max(highest, values[i]);
  return highest;
}

}  // namespace

void Clock::JoinOthers(const Clock& other) {
  if (others.size() < other.others.size()) others.resize(other.others.size());
  // Through plain pointers the loop is one of vectors: it runs at every wait, over all cores.
  int32_t* const mine = others.data();
  const int32_t* const theirs = other.others.data();
  const size_t count = other.others.size();
  for (size_t i = 0; i < count; ++i) mine[i] = std::max(mine[i], theirs[i]);
}

void Core::RejectField() const {
  const BadField field = std::exchange(g_bad_field, BadField());
  Reject("%s is %lld, which must be in [0, %lld]", field.name, static_cast<long long>(field.value),
         static_cast<long long>(field.most));
}

void Core::Reject(const char* format, ...) const {
  char rule[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(rule, sizeof(rule), format, arguments);
  va_end(arguments);
  throw Violation(Place() + rule);
}

std::string Core::Place() const {
  return std::string("kernel ") + KernelName() + ", block " + std::to_string(block) + ", " +
         CoreName(index) + ", " + BaseName(file) + ":" + std::to_string(line) + ": " + name + ": ";
}

void Core::Start(int core_index, int block_index, int sub_block_index, bool is_cube) {
  index = core_index;
  block = block_index;
  sub_block = sub_block_index;
  cube = is_cube;
  if (log.empty()) log.resize(kLog);
  for (int m = 0; m < kMemories; ++m) {
    if (memory[m] != nullptr || (cube ? m == kUb : m != kUb)) continue;
    memory[m] =
        static_cast<uint8_t*>(std::aligned_alloc(4096, (kMemoryBytes[m] + 4095) / 4096 * 4096));
    Shadow& s = shadow[m];
    const uint32_t blocks = kMemoryBytes[m] / kBlock;
    for (int i = 0; i < kReach[m].count; ++i) {
      const Pipe p = kReach[m].pipes[i];
      s.written[p].assign(blocks, 0);
      s.read[p].assign(blocks, 0);
      s.partial[p].assign(blocks, 0);
      s.partial_at[p].assign(blocks, 0);
    }
    if (m == kUb) s.holds.assign(blocks, 0);
    s.top = kMemoryBytes[m];
  }
  // What earlier launches left is not of this one. NaNs show what is read without having been
  // written.
  for (int m = 0; m < kMemories; ++m) {
    if (memory[m] == nullptr) continue;
    if (g_checks) {
      const uint32_t used = std::exchange(shadow[m].top, 0);
      const uint32_t blocks = (used + kBlock - 1) / kBlock;
      std::memset(memory[m], 0xFF, blocks * kBlock);
      if (m == kUb) std::fill_n(shadow[m].holds.begin(), blocks, 0u);
    }
    if (number > (1 << 30)) {
      for (int p = 0; p < kPipes; ++p) {
        for (auto* values : {&shadow[m].written[p], &shadow[m].read[p], &shadow[m].partial_at[p]})
          std::fill(values->begin(), values->end(), 0);
        shadow[m].last_written[p] = shadow[m].last_read[p] = 0;
      }
    }
  }
  if (number > (1 << 30)) number = 1;
  first_number = ++number;
  fp32_mode_set = false;
  ub_handed_out = 0;
  for (Clock& c : clock) {
    std::fill(c.own, c.own + kPipes, number);
    c.others.clear();
  }
  for (auto& from : flags) {
    for (auto& to : from) {
      for (Flag& flag : to) flag.up = false;
    }
  }
  for (int p = 0; p < kPipes; ++p) {
    free[p] = done[p] = Cycles();
    counts[p] = PipeCounts();
  }
  scalar_local = scalar_global = bytes_in = bytes_out = cube_multiplies = 0;
  std::fill(bursts_by_size, bursts_by_size + 12, 0);
  mask_counts = false;
  mask[0] = mask[1] = ~0ull;
  atomic = false;
  tpipe = nullptr;
  std::memset(events, 0, sizeof(events));
  std::memset(queue_events, 0, sizeof(queue_events));
  name = "the kernel";
  file = "";
  line = 0;
  unflushed = 0;
}

void Core::Finish() {
  name = "the end of the kernel";
  CheckQueues();
  for (int from = 0; from < kPipes; ++from) {
    for (int to = 0; to < kPipes; ++to) {
      for (int event = 0; event < kEvents; ++event) {
        const Flag& flag = flags[from][to][event];
        if (!flag.up) continue;
        Blame(flag.here);
        Reject("flag %s_%s of event %d, set at line %d, is never waited for", kPipeNames[from],
               kPipeNames[to], event, flag.here.line);
      }
    }
  }
  if (atomic) Blame(atomic_here);
  if (atomic) Reject("atomics are left on: SetAtomicNone is missing");
  if (mask_counts) Blame(mask_here);
  if (mask_counts) Reject("the mask is left in counter mode: SetMaskNorm is missing");
  if (unflushed) {
    Blame(unflushed_here);
    Reject(
        "%llu scalar writes to global memory are left in the data cache: DataCacheCleanAndInvalid "
        "is missing",
        static_cast<unsigned long long>(unflushed));
  }
  DropQueues();
}

void Core::DropQueues() {
  for (QueueState* queue : queues) delete queue;
  queues.clear();
}

void Core::CheckQueues() {
  for (const QueueState* queue : queues) {
    for (const Buffer& buffer : queue->buffers) {
      if (buffer.state == BufferState::kFree) continue;
      Blame(buffer.here);
      Reject("a tensor of %s of a queue, %s at line %d, is never freed: %s is missing",
             kMemoryNames[queue->memory],
             buffer.state == BufferState::kQueued  ? "enqueued"
             : buffer.state == BufferState::kTaken ? "allocated"
                                                   : "dequeued",
             buffer.here.line, buffer.state == BufferState::kQueued ? "DeQue" : "FreeTensor");
    }
  }
}

// The race detector: an access is ordered after another if the pipe knows the other's number to be
// done.
void Core::Conflict(const char* what, Memory where, uint32_t block_index, Pipe other,
                    int32_t at) const {
  const Instruction& entry = log[at & (kLog - 1)];
  const bool known = entry.number == at;
  const uint32_t begin = block_index * kBlock;
  if (other == pipe) {
    Reject(
        "race: %s bytes [%u, %u) of %s, that %s at line %d also used, and nothing orders the two: "
        "PipeBarrier<PIPE_%s> is missing",
        what, begin, begin + kBlock, kMemoryNames[where], known ? entry.name : "an instruction",
        known ? entry.line : 0, kPipeNames[pipe]);
  }
  Reject(
      "race: %s bytes [%u, %u) of %s, that %s of pipe %s at line %d also used, and nothing orders "
      "the two: "
      "SetFlag and WaitFlag<HardEvent::%s_%s> or a queue is missing",
      what, begin, begin + kBlock, kMemoryNames[where], known ? entry.name : "an instruction",
      kPipeNames[other], known ? entry.line : 0, kPipeNames[other], kPipeNames[pipe]);
}

template <bool kWrite>
void Core::Access(Memory where, uint32_t offset, uint32_t bytes, Pipe ordered) {
  Shadow& s = shadow[where];
  if (kWrite) s.top = std::max(s.top, std::min(offset + bytes, kMemoryBytes[where]));
  if (!g_checks || bytes == 0) return;
  const uint32_t first = offset / kBlock, last = (offset + bytes - 1) / kBlock;
  if (last >= kMemoryBytes[where] / kBlock)
    Reject("bytes [%u, %u) are out of %s", offset, offset + bytes, kMemoryNames[where]);
  const bool ragged = offset % kBlock != 0 || (offset + bytes) % kBlock != 0;
  const auto disjoint = [&](Pipe p, uint32_t at) {
    return ragged && s.partial_at[p][at] == s.written[p][at] &&
           (s.partial[p][at] & ByteMask(at, offset, offset + bytes)) == 0;
  };
  for (int i = 0; i < kReach[where].count; ++i) {
    const Pipe p = kReach[where].pipes[i];
    if (p == ordered || (p == kS && pipe == kS)) continue;
    const int32_t limit = clock[pipe].own[p];
    if (s.last_written[p] > limit) {
      const int32_t* written = s.written[p].data();
      if (Highest(written, first, last) > limit) {
        for (uint32_t at = first; at <= last; ++at) {
          if (written[at] > limit && !disjoint(p, at))
            Conflict(kWrite ? "writes over" : "reads", where, at, p, written[at]);
        }
      }
    }
    if (kWrite && s.last_read[p] > limit) {
      const int32_t* read = s.read[p].data();
      if (Highest(read, first, last) > limit) {
        for (uint32_t at = first; at <= last; ++at) {
          // An instruction may write over what it has itself read.
          if (read[at] > limit && read[at] != number)
            Conflict("writes over", where, at, p, read[at]);
        }
      }
    }
  }
  if constexpr (kWrite) {
    if (ragged) {
      for (const uint32_t at : {first, last}) {
        const uint32_t mask = ByteMask(at, offset, offset + bytes);
        if (mask == ~0u) continue;
        const bool adds = s.partial_at[pipe][at] == s.written[pipe][at] &&
                          s.written[pipe][at] > clock[pipe].own[pipe];
        s.partial[pipe][at] = adds ? s.partial[pipe][at] | mask : mask;
        s.partial_at[pipe][at] = number;
      }
    }
    std::fill(s.written[pipe].begin() + first, s.written[pipe].begin() + last + 1, number);
    s.last_written[pipe] = number;
    if (where == kUb) {
      if (ragged) {
        s.holds[first] |= ByteMask(first, offset, offset + bytes);
        s.holds[last] |= ByteMask(last, offset, offset + bytes);
        if (last > first + 1) std::fill(s.holds.begin() + first + 1, s.holds.begin() + last, ~0u);
      } else {
        std::fill(s.holds.begin() + first, s.holds.begin() + last + 1, ~0u);
      }
    }
  } else {
    std::fill(s.read[pipe].begin() + first, s.read[pipe].begin() + last + 1, number);
    s.last_read[pipe] = number;
    if (where == kUb) {
      const uint32_t* holds = s.holds.data();
      uint32_t all = ~0u;
      for (uint32_t at = first + 1; at < last; ++at) all &= holds[at];
      for (const uint32_t at : {first, last})
        all &= holds[at] | ~ByteMask(at, offset, offset + bytes);
      if (all != ~0u) {
        for (uint32_t at = first; at <= last; ++at) {
          const uint32_t missing = ByteMask(at, offset, offset + bytes) & ~holds[at];
          if (missing == 0) continue;
          Reject("reads byte %u of UB, that nothing has written: the data is not initialised",
                 at * kBlock + std::countr_zero(missing));
        }
      }
    }
  }
}

void Core::Read(Memory where, uint32_t offset, uint32_t bytes, Pipe ordered) {
  Access<false>(where, offset, bytes, ordered);
}
void Core::Write(Memory where, uint32_t offset, uint32_t bytes, Pipe ordered) {
  Access<true>(where, offset, bytes, ordered);
}

template <bool kWrite>
void Core::AccessBlocks(uint32_t offset, uint32_t step, uint32_t count) {
  if (count == 0) return;
  Shadow& s = shadow[kUb];
  const uint32_t first = offset / kBlock, end = first + step * count;
  if (kWrite) s.top = std::max(s.top, std::min(end * kBlock, kMemoryBytes[kUb]));
  if (!g_checks) return;
  bool sound = offset % kBlock == 0;
  for (int i = 0; i < kReach[kUb].count && sound; ++i) {
    const Pipe p = kReach[kUb].pipes[i];
    const int32_t limit = clock[pipe].own[p];
    if (s.last_written[p] > limit) {
      for (uint32_t at = first; at < end; at += step) sound &= s.written[p][at] <= limit;
    }
    if (kWrite && s.last_read[p] > limit) {
      for (uint32_t at = first; at < end; at += step) {
        sound &= s.read[p][at] <= limit || s.read[p][at] == number;
      }
    }
  }
  if constexpr (!kWrite) {
    for (uint32_t at = first; at < end; at += step) sound &= s.holds[at] == ~0u;
  }
  if (!sound) {
    for (uint32_t i = 0; i < count; ++i) {
      Access<kWrite>(kUb, offset + i * step * kBlock, kBlock, kPipes);
    }
    return;
  }
  auto& mine = kWrite ? s.written[pipe] : s.read[pipe];
  for (uint32_t at = first; at < end; at += step) mine[at] = number;
  (kWrite ? s.last_written : s.last_read)[pipe] = number;
  if constexpr (kWrite) {
    for (uint32_t at = first; at < end; at += step) s.holds[at] = ~0u;
  }
}
template void Core::AccessBlocks<false>(uint32_t, uint32_t, uint32_t);
template void Core::AccessBlocks<true>(uint32_t, uint32_t, uint32_t);

void Core::ReadScattered(uint32_t base, const uint32_t* offsets, uint64_t count, uint32_t size) {
  if (!g_checks || count == 0) return;
  const auto [low, high] = std::minmax_element(offsets, offsets + count);
  const uint32_t first = (base + *low) / kBlock, last = (base + *high) / kBlock;
  Shadow& s = shadow[kUb];
  bool sound = true;  // all between the lowest and the highest offset may be read
  for (int i = 0; i < kReach[kUb].count && sound; ++i) {
    const Pipe p = kReach[kUb].pipes[i];
    const int32_t limit = clock[pipe].own[p];
    sound = s.last_written[p] <= limit || Highest(s.written[p].data(), first, last) <= limit;
  }
  uint32_t all = ~0u;
  for (uint32_t at = first; at <= last; ++at) all &= s.holds[at];
  if (!sound || all != ~0u) {
    for (uint64_t i = 0; i < count; ++i) Access<false>(kUb, base + offsets[i], size, kPipes);
    return;
  }
  int32_t* read = s.read[pipe].data();
  for (uint64_t i = 0; i < count; ++i) read[(base + offsets[i]) / kBlock] = number;
  s.last_read[pipe] = number;
}

uint8_t* Core::ReadGlobal(const void* address, uint64_t bytes) {
  GlobalMemory::Get().Access(*this, reinterpret_cast<uintptr_t>(address), bytes, false, false);
  return static_cast<uint8_t*>(const_cast<void*>(address));
}

uint8_t* Core::WriteGlobal(void* address, uint64_t bytes, bool cached) {
  if (cached) {
    ++unflushed;
    unflushed_here = Here(file, line);
  }
  GlobalMemory::Get().Access(*this, reinterpret_cast<uintptr_t>(address), bytes, true, cached);
  return static_cast<uint8_t*>(address);
}

void Core::CleanCache(const void* address, bool all, const Here& here) {
  Begin("DataCacheCleanAndInvalid", kS, here);
  Spend(Cycles(1));
  GlobalMemory::Get().Flush(*this, reinterpret_cast<uintptr_t>(address), all);
}

void Core::SpendDma(bool in, uint64_t bursts, uint64_t burst_bytes) {
  const double bytes = static_cast<double>(bursts * burst_bytes);
  const double gaps = 4.0 * (bursts > 1 ? static_cast<double>(bursts - 1) : 0);
  const double rate = in ? 110 : 86;
  counts[pipe].bytes += bursts * burst_bytes;
  (in ? bytes_in : bytes_out) += bursts * burst_bytes;
  int size = 0;
  while (size < 11 && (uint64_t{32} << size) < burst_bytes) ++size;
  bursts_by_size[size] += bursts;
  Spend(Cycles(std::max(bytes / rate, 32.0) + gaps, std::max(bytes / 32, 32.0) + gaps), 400);
}

int Core::TakeEvent(Pipe from, Pipe to) {
  uint8_t& used = events[from][to];
  if (used == 0xFF)
    Reject("all 8 events of %s_%s are in use: too many buffers are handed over at once",
           kPipeNames[from], kPipeNames[to]);
  const int event = std::countr_one(used);
  used |= static_cast<uint8_t>(1u << event);
  return event;
}

Flag Core::Release(Pipe on, const Here& here) {
  Flag flag;
  flag.clock = clock[on];
  flag.clock.own[on] = number;
  flag.time = Max(done[on], free[kS]);
  flag.here = here;
  ++number;
  return flag;
}

void Core::Acquire(Pipe on, const Flag& flag, int from) {
  const auto join = [&](Clock& c) {
    if (from < 0) {
      c.Join(flag.clock);
      return;
    }
    if (!flag.clock.others.empty()) c.JoinOthers(flag.clock);
    c.others.resize(std::max(c.others.size(), static_cast<size_t>(CoreCount()) * kPipes));
    for (int p = 0; p < kPipes; ++p) {
      int32_t& theirs = c.others[static_cast<size_t>(from) * kPipes + p];
      theirs = std::max(theirs, flag.clock.own[p]);
      c.own[p] = std::max(c.own[p], c.others[static_cast<size_t>(index) * kPipes + p]);
    }
  };
  ++counts[on].waits;
  if (on == kS) {
    // What the scalar unit has waited for precedes whatever it issues from then on.
    for (Clock& c : clock) join(c);
  } else {
    join(clock[on]);
  }
  free[on] = Max(free[on], flag.time);
  done[on] = Max(done[on], free[on]);
}

void Core::SetFlag(Pipe from, Pipe to, int event, const Here& here) {
  Begin("SetFlag", from, here);
  if (event < 0 || event >= kEvents) Reject("event %d, which must be in [0, 7]", event);
  Flag& flag = flags[from][to][event];
  if (queue_events[from][to] >> event & 1) {
    Reject("event %d of %s_%s belongs to a queue at present: AllocEventID gives one that is free",
           event, kPipeNames[from], kPipeNames[to]);
  }
  if (flag.up) {
    Reject("flag %s_%s of event %d is set already, at line %d: WaitFlag is missing",
           kPipeNames[from], kPipeNames[to], event, flag.here.line);
  }
  free[kS] += Cycles(1);
  flag = Release(from, here);
  flag.up = true;
}

void Core::WaitFlag(Pipe from, Pipe to, int event, const Here& here) {
  Begin("WaitFlag", to, here);
  if (event < 0 || event >= kEvents) Reject("event %d, which must be in [0, 7]", event);
  Flag& flag = flags[from][to][event];
  if (!flag.up) {
    Reject("deadlock: flag %s_%s of event %d is waited for and nothing has set it",
           kPipeNames[from], kPipeNames[to], event);
  }
  free[kS] += Cycles(1);
  Acquire(to, flag);
  flag.up = false;
}

void Core::Barrier(Pipe on, const Here& here) {
  if (on == kPipes) Reject("PipeBarrier of an unknown pipe");
  Begin("PipeBarrier", on, here);
  free[kS] += Cycles(1);
  clock[on].own[on] = number;
  free[on] = Max(free[on], done[on]);
}

void Core::BarrierAll(const Here& here) {
  Begin("PipeBarrier", kS, here);
  free[kS] += Cycles(1);
  Clock all = clock[kS];
  Cycles time = free[kS];
  for (int p = 0; p < kPipes; ++p) {
    all.Join(clock[p]);
    time = Max(time, Max(free[p], done[p]));
  }
  std::fill(all.own, all.own + kPipes, number);
  for (int p = 0; p < kPipes; ++p) {
    clock[p] = all;
    free[p] = done[p] = time;
  }
}

// Four rows at a time, sixteen columns in the lanes of a vector.
void MultiplyPanel(const float* a, uint32_t rows, uint32_t k, const float* b, float* c) {
  typedef float Vector __attribute__((vector_size(64), aligned(4)));
  uint32_t row = 0;
  for (; row + 4 <= rows; row += 4) {
    Vector sum[4];
    for (int r = 0; r < 4; ++r) sum[r] = *reinterpret_cast<const Vector*>(c + (row + r) * 16);
    for (uint32_t i = 0; i < k; ++i) {
      const Vector right = *reinterpret_cast<const Vector*>(b + i * 16);
      for (int r = 0; r < 4; ++r) sum[r] += right * a[static_cast<size_t>(row + r) * k + i];
    }
    for (int r = 0; r < 4; ++r) *reinterpret_cast<Vector*>(c + (row + r) * 16) = sum[r];
  }
  for (; row < rows; ++row) {
    Vector sum = *reinterpret_cast<const Vector*>(c + row * 16);
    for (uint32_t i = 0; i < k; ++i)
      sum += *reinterpret_cast<const Vector*>(b + i * 16) * a[static_cast<size_t>(row) * k + i];
    *reinterpret_cast<Vector*>(c + row * 16) = sum;
  }
}

}  // namespace softnpu
