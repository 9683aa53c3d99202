// A core of the software NPU: its memories, its pipes, what is known to be ordered, and what it
// costs.
//
// Instructions run at once, in program order. Each is also recorded: the bytes it reads and writes,
// against which the race detector holds the order that flags, queues and barriers give (vector
// clocks, one a pipe), and its cycles, on the timeline of its pipe.
#pragma once

#include <cstdarg>
#include <cstdint>
#include <exception>
#include <string>
#include <vector>

#include "types.h"

namespace softnpu {

// Where in a kernel's source a call stands; a default argument of every function of the API.
struct Here {
  const char* file;
  int line;
  explicit constexpr Here(const char* file = __builtin_FILE(), int line = __builtin_LINE())
      : file(file), line(line) {}
};

enum Pipe : uint8_t { kS, kV, kM, kMte1, kMte2, kMte3, kFix, kPipes };
inline constexpr const char* kPipeNames[] = {"S", "V", "M", "MTE1", "MTE2", "MTE3", "FIX"};

enum Memory : uint8_t { kUb, kL1, kL0a, kL0b, kL0c, kBiasTable, kFixBuffer, kMemories };
inline constexpr const char* kMemoryNames[] = {"UB", "L1", "L0A", "L0B", "L0C", "the bias table",
                                               "FB"};
inline constexpr uint32_t kMemoryBytes[] = {196608, 524288, 65536, 65536, 131072, 1024, 7168};

inline constexpr int kEvents = 8;
inline constexpr int kCrossCoreFlags = 16;
inline constexpr uint32_t kBlock = 32;

constexpr Pipe ToPipe(pipe_t pipe) {
  switch (pipe) {
    case PIPE_S:
      return kS;
    case PIPE_V:
      return kV;
    case PIPE_M:
      return kM;
    case PIPE_MTE1:
      return kMte1;
    case PIPE_MTE2:
      return kMte2;
    case PIPE_MTE3:
      return kMte3;
    case PIPE_FIX:
      return kFix;
    default:
      return kPipes;
  }
}

constexpr Memory ToMemory(AscendC::TPosition position) {
  using AscendC::TPosition;
  switch (position) {
    case TPosition::A1:
    case TPosition::B1:
    case TPosition::C1:
    case TPosition::TSCM:
      return kL1;
    case TPosition::A2:
      return kL0a;
    case TPosition::B2:
      return kL0b;
    case TPosition::CO1:
      return kL0c;
    case TPosition::C2:
      return kBiasTable;
    case TPosition::C2PIPE2GM:
      return kFixBuffer;
    case TPosition::VECIN:
    case TPosition::VECOUT:
    case TPosition::VECCALC:
      return kUb;
    default:
      return kMemories;
  }
}

// A rule that a kernel broke: ends the launch.
struct Violation : std::exception {
  explicit Violation(std::string text) : text(std::move(text)) {}
  const char* what() const noexcept override { return text.c_str(); }
  std::string text;
};

// The cycles of a timeline are counted twice: with the launch's data in the L2, and out of it.
struct Cycles {
  double l2 = 0;
  double device = 0;
  Cycles() = default;
  Cycles(double both) : l2(both), device(both) {}
  Cycles(double l2, double device) : l2(l2), device(device) {}
  Cycles operator+(const Cycles& o) const { return {l2 + o.l2, device + o.device}; }
  Cycles& operator+=(const Cycles& o) { return *this = *this + o; }
};
inline Cycles Max(const Cycles& a, const Cycles& b) {
  return {a.l2 > b.l2 ? a.l2 : b.l2, a.device > b.device ? a.device : b.device};
}

// What a pipe knows to be done: for each pipe of its own core the number of the last instruction
// that precedes, and the same for the pipes of other cores where the kernel has joined them.
struct Clock {
  int32_t own[kPipes] = {};
  std::vector<int32_t> others;  // core * kPipes + pipe; empty until a first cross-core wait
  void Join(const Clock& other) {
    for (int p = 0; p < kPipes; ++p) own[p] = own[p] > other.own[p] ? own[p] : other.own[p];
    if (!other.others.empty()) JoinOthers(other);
  }
  void JoinOthers(const Clock& other);
};

struct Flag {
  Clock clock;
  Cycles time;
  Here here;  // where it was raised
  bool up = false;
};

// Who last wrote and read each 32 B of a memory, by pipe and instruction number, and which bytes
// hold data.
struct Shadow {
  std::vector<int32_t> written[kPipes];
  std::vector<int32_t> read[kPipes];
  std::vector<uint32_t>
      partial[kPipes];  // the bytes of the last write, where it wrote a part of the 32
  std::vector<int32_t> partial_at[kPipes];
  std::vector<uint32_t> holds;  // a bit for each byte that was ever written; of UB alone
  uint32_t top = 0;             // the end of what was written since the core has started
  int32_t last_written[kPipes] = {};
  int32_t last_read[kPipes] = {};
};

// What the instructions of a pipe amounted to.
struct PipeCounts {
  uint64_t instructions = 0;
  uint64_t bytes = 0;
  uint64_t waits = 0;
  Cycles busy;
};

struct Instruction {
  const char* name = "";
  int line = 0;
  int32_t number = 0;
};

struct QueueState;

struct Core {
  static constexpr int kLog = 1 << 14;

  int index = 0;  // among the cores of the launch
  int block = 0;
  int sub_block = 0;
  bool cube = false;

  uint8_t* memory[kMemories] = {};
  Shadow shadow[kMemories];

  // The instruction at hand.
  const char* name = "";
  const char* file = "";
  int line = 0;
  Pipe pipe = kS;
  int32_t number = 1;  // grows from launch to launch, so that shadows need no clearing
  int32_t first_number = 0;
  std::vector<Instruction> log;

  Clock clock[kPipes];
  Flag flags[kPipes][kPipes][kEvents];

  // Timelines: when a pipe takes its next instruction, and when the data of all it was given is
  // there.
  Cycles free[kPipes];
  Cycles done[kPipes];
  PipeCounts counts[kPipes];
  uint64_t scalar_local = 0;
  uint64_t scalar_global = 0;
  uint64_t bytes_in = 0;
  uint64_t bytes_out = 0;
  uint64_t cube_multiplies = 0;
  uint64_t bursts_by_size[12] = {};  // by the power of two, from 32 B and less to 64 KiB and more

  // Vector masks, atomics and the pad value are registers of the core.
  bool mask_counts = false;
  uint64_t mask[2] = {~0ull, ~0ull};
  uint8_t compare_mask[256] = {};
  Here mask_here;
  bool atomic = false;
  Here atomic_here;
  const char* atomic_type = "";
  void (*atomic_add)(uint8_t*, const uint8_t*, uint32_t) = nullptr;
  bool fp32_mode_set = false;  // the cube's fp32 mode outlives a kernel: unknown until it is set
  uint32_t ub_handed_out = 0;  // by TPipe, at most
  int64_t gather_mask_count = 0;
  float deq_scale = 1;
  uint16_t mrg_sorted[4] = {};
  uint64_t unflushed = 0;  // scalar writes to global memory that the data cache still holds
  Here unflushed_here;

  void* tpipe = nullptr;
  std::vector<QueueState*> queues;
  uint8_t queue_events[kPipes][kPipes] = {};
  uint8_t events[kPipes][kPipes] = {};  // ids in use by queues and AllocEventID, a bit each

  // Ends the launch with a text that names kernel, core, line and rule.
  [[noreturn]] __attribute__((format(printf, 2, 3))) void Reject(const char* format, ...) const;

  void Begin(const char* instruction, Pipe on, const Here& here) {
    name = instruction;
    line = here.line;
    file = here.file;
    pipe = on;
    ++number;
    Instruction& entry = log[number & (kLog - 1)];
    entry.name = instruction;
    entry.line = here.line;
    entry.number = number;
    if (g_bad_field.name != nullptr) RejectField();
  }

  // Bytes of a memory of the core that the instruction at hand reads or writes. Write after all
  // Reads. `ordered`: a pipe whose earlier accesses the hardware itself waits for.
  void Read(Memory where, uint32_t offset, uint32_t bytes, Pipe ordered = kPipes);
  void Write(Memory where, uint32_t offset, uint32_t bytes, Pipe ordered = kPipes);

  // Whole blocks of UB, each `step` blocks after the one before.
  void ReadBlocks(uint32_t offset, uint32_t step, uint32_t count) {
    AccessBlocks<false>(offset, step, count);
  }
  void WriteBlocks(uint32_t offset, uint32_t step, uint32_t count) {
    AccessBlocks<true>(offset, step, count);
  }
  // Elements of `size` bytes of UB, at `count` offsets from `base`.
  void ReadScattered(uint32_t base, const uint32_t* offsets, uint64_t count, uint32_t size);

  // Bytes of global memory. Returns where they are in the address space of this process.
  uint8_t* ReadGlobal(const void* address, uint64_t bytes);
  uint8_t* WriteGlobal(void* address, uint64_t bytes, bool cached = false);

  // The instruction holds its pipe for `cycles`; its results are there `latency` after that.
  void Spend(Cycles cycles, double latency = 0) {
    Cycles& scalar = free[kS];
    PipeCounts& count = counts[pipe];
    ++count.instructions;
    count.busy += cycles;
    if (pipe == kS) {
      scalar += cycles;
      done[kS] = scalar;
      return;
    }
    scalar += Cycles(1);
    free[pipe] = Max(free[pipe], scalar) + cycles;
    done[pipe] = Max(done[pipe], free[pipe] + Cycles(latency));
  }
  void SpendVector(uint32_t repeats) { Spend(Cycles(14.0 + repeats)); }
  // A DMA from or to global memory in `bursts` of `burst_bytes` each.
  void SpendDma(bool in, uint64_t bursts, uint64_t burst_bytes);

  void Start(int index, int block, int sub_block, bool cube);
  void Finish();
  int TakeEvent(Pipe from, Pipe to);
  void GiveEvent(Pipe from, Pipe to, int event) { events[from][to] &= ~(1u << event); }
  void CheckQueues();
  void DropQueues();
  void SetFlag(Pipe from, Pipe to, int event, const Here& here);
  void WaitFlag(Pipe from, Pipe to, int event, const Here& here);
  void Barrier(Pipe on, const Here& here);
  void BarrierAll(const Here& here);
  // Takes over what a flag of this core, or of core `from`, knows.
  void Acquire(Pipe on, const Flag& flag, int from = -1);
  Flag Release(Pipe on, const Here& here);

  void CrossCoreSetFlag(int mode, Pipe on, int flag, const Here& here);
  void CrossCoreWaitFlag(Pipe on, int flag, const Here& here);
  void SyncAll(bool aiv_only, const Here& here);
  void CleanCache(const void* address, bool all, const Here& here);

  // Where the rejection of an earlier deed is to point.
  void Blame(const Here& here) {
    file = here.file;
    line = here.line;
  }
  std::string Place() const;

 private:
  template <bool kWrite>
  void Access(Memory where, uint32_t offset, uint32_t bytes, Pipe ordered);
  template <bool kWrite>
  void AccessBlocks(uint32_t offset, uint32_t step, uint32_t count);
  [[noreturn]] void RejectField() const;
  [[noreturn]] void Conflict(const char* what, Memory where, uint32_t block_index, Pipe other,
                             int32_t at) const;
};

// The core that runs; set by the scheduler.
extern Core* g_core;
extern bool g_checks;  // MXD_SOFTNPU_CHECK: races and data never written
extern int g_block_dim;
extern int g_sub_blocks;

inline Core& core() { return *g_core; }
inline bool OnCube() { return g_core->cube; }

template <typename T>
constexpr const char* TypeName() {
  if constexpr (std::is_same_v<T, half>) return "half";
  if constexpr (std::is_same_v<T, bfloat16_t>) return "bfloat16_t";
  if constexpr (std::is_same_v<T, float>) return "float";
  if constexpr (std::is_same_v<T, double>) return "double";
  if constexpr (std::is_same_v<T, int8_t>) return "int8_t";
  if constexpr (std::is_same_v<T, uint8_t>) return "uint8_t";
  if constexpr (std::is_same_v<T, int16_t>) return "int16_t";
  if constexpr (std::is_same_v<T, uint16_t>) return "uint16_t";
  if constexpr (std::is_same_v<T, int32_t>) return "int32_t";
  if constexpr (std::is_same_v<T, uint32_t>) return "uint32_t";
  if constexpr (std::is_same_v<T, int64_t>) return "int64_t";
  if constexpr (std::is_same_v<T, uint64_t>) return "uint64_t";
  return "an unknown type";
}

template <typename T, typename... Types>
inline constexpr bool kIsOneOf = (std::is_same_v<T, Types> || ...);

}  // namespace softnpu
