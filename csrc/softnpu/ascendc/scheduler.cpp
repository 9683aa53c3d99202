#include "scheduler.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core.h"
#include "global_memory.h"
#include "launch.h"
#include "profile.h"

namespace softnpu {
namespace {

constexpr size_t kStackBytes = 1 << 20;

// A core's run of the kernel.
struct Fiber {
  Core* core = nullptr;
  void* stack = nullptr;
  ucontext_t context;
  bool finished = false;
  std::function<bool()> ready;  // what the core waits for, where it waits
  std::string waits_for;
};

// SyncAll: round n is over when all members came n times.
struct Meeting {
  struct Round {
    int arrived = 0;
    std::vector<std::pair<int, Flag>> flags;
  };
  int members = 0;
  std::vector<int> rounds_of;  // by core, how many rounds it came to
  std::vector<Round> rounds;
};

// A cross-core flag on its way: a wait takes one from each of `needed` cores.
struct CrossFlag {
  int from;
  size_t needed;
  Flag flag;
};

struct Launch {
  const char* kernel = "";
  KernelType type = KernelType::kAiv;
  int blocks = 0;
  int cores_a_block = 1;
  int cores = 0;
  const std::function<void()>* body = nullptr;
  std::vector<std::unique_ptr<Fiber>> fibers;  // of the cores that have started
  Fiber* current = nullptr;
  ucontext_t scheduler;
  std::string error;
  bool failed = false;
  Meeting sync_all[2];
  std::vector<std::array<std::deque<CrossFlag>, kCrossCoreFlags>>
      cross_flags;  // by core that may wait
  Profile profile;

  bool IsCube(int core) const {
    return type == KernelType::kAic || (type != KernelType::kAiv && core % cores_a_block == 0);
  }
};

std::mutex g_mutex;
Launch* g_launch = nullptr;
std::vector<Core*> g_idle_cores[2];  // by cube
std::vector<void*> g_idle_stacks;

void Enter() {
  Fiber& fiber = *g_launch->current;
  try {
    (*g_launch->body)();
    fiber.core->Finish();
  } catch (const Violation& violation) {
    g_launch->failed = true;
    g_launch->error = violation.text;
  }
  fiber.finished = true;
  setcontext(&g_launch->scheduler);
}

void Resume(Fiber& fiber) {
  g_launch->current = &fiber;
  g_core = fiber.core;
  swapcontext(&g_launch->scheduler, &fiber.context);
  g_core = nullptr;
}

void StartCore(int index) {
  Launch& launch = *g_launch;
  auto fiber = std::make_unique<Fiber>();
  const bool cube = launch.IsCube(index);
  auto& idle = g_idle_cores[cube];
  if (idle.empty()) {
    fiber->core = new Core;
  } else {
    fiber->core = idle.back();
    idle.pop_back();
  }
  const int place = index % launch.cores_a_block;
  fiber->core->Start(index, index / launch.cores_a_block,
                     launch.cores_a_block > 1 && !cube ? place - 1 : 0, cube);
  if (g_idle_stacks.empty()) {
    fiber->stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    mprotect(fiber->stack, 4096, PROT_NONE);
  } else {
    fiber->stack = g_idle_stacks.back();
    g_idle_stacks.pop_back();
  }
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = fiber->stack;
  fiber->context.uc_stack.ss_size = kStackBytes;
  fiber->context.uc_link = nullptr;
  makecontext(&fiber->context, Enter, 0);
  launch.fibers.push_back(std::move(fiber));
}

void Retire(Fiber& fiber) {
  Core& core = *fiber.core;
  if (g_launch->failed) {
    // Queues of a kernel that was cut short.
    core.DropQueues();
  } else {
    g_launch->profile.Add(core);
  }
  g_idle_cores[core.cube].push_back(&core);
  g_idle_stacks.push_back(fiber.stack);
}

// Runs what can run: cores that have started first, so that few are alive at a time.
void RunAll() {
  Launch& launch = *g_launch;
  int next = 0;
  while (!launch.failed) {
    bool ran = false;
    for (size_t i = 0; i < launch.fibers.size() && !launch.failed;) {
      Fiber& fiber = *launch.fibers[i];
      if (fiber.ready && !fiber.ready()) {
        ++i;
        continue;
      }
      fiber.ready = nullptr;
      Resume(fiber);
      ran = true;
      if (launch.failed) break;
      if (fiber.finished) {
        Retire(fiber);
        launch.fibers.erase(launch.fibers.begin() + static_cast<ptrdiff_t>(i));
      } else {
        ++i;
      }
    }
    if (ran) continue;
    if (next < launch.cores) {
      StartCore(next++);
      continue;
    }
    if (launch.fibers.empty()) return;
    launch.failed = true;
    launch.error = launch.fibers[0]->core->Place() + "deadlock: ";
    for (size_t i = 0; i < launch.fibers.size() && i < 4; ++i) {
      const Core& core = *launch.fibers[i]->core;
      launch.error += std::string(i ? "; " : "") + CoreName(core.index) + " waits at line " +
                      std::to_string(core.line) + " for " + launch.fibers[i]->waits_for;
    }
    if (launch.fibers.size() > 4)
      launch.error += "; and " + std::to_string(launch.fibers.size() - 4) + " more cores";
    if (static_cast<int>(launch.fibers.size()) < launch.cores) {
      launch.error += "; " + std::to_string(launch.cores - static_cast<int>(launch.fibers.size())) +
                      " cores have ended";
    }
  }
}

void WaitUntil(std::function<bool()> ready, std::string what) {
  if (ready()) return;
  Fiber& fiber = *g_launch->current;
  fiber.ready = std::move(ready);
  fiber.waits_for = std::move(what);
  Core* core = g_core;
  swapcontext(&fiber.context, &g_launch->scheduler);
  g_core = core;
}

void CheckCrossFlags() {
  Launch& launch = *g_launch;
  for (int core = 0; core < launch.cores; ++core) {
    for (int flag = 0; flag < kCrossCoreFlags; ++flag) {
      if (launch.cross_flags[core][flag].empty()) continue;
      launch.failed = true;
      const CrossFlag& left = launch.cross_flags[core][flag].front();
      launch.error = std::string("kernel ") + launch.kernel + ", block " +
                     std::to_string(left.from / launch.cores_a_block) + ", " + CoreName(left.from) +
                     ", " + BaseName(left.flag.here.file) + ":" +
                     std::to_string(left.flag.here.line) + ": CrossCoreSetFlag: cross-core flag " +
                     std::to_string(flag) + " is set for an " +
                     (launch.IsCube(core) ? "AIC" : "AIV") + " that never waits for it";
      return;
    }
  }
}

// Comes to a meeting with what the core knows; returns the round.
int Arrive(Meeting& meeting, Core& core, Flag flag) {
  if (meeting.rounds_of.empty()) meeting.rounds_of.resize(static_cast<size_t>(g_launch->cores));
  const int round = meeting.rounds_of[core.index]++;
  if (static_cast<int>(meeting.rounds.size()) <= round)
    meeting.rounds.resize(static_cast<size_t>(round) + 1);
  meeting.rounds[round].flags.emplace_back(core.index, std::move(flag));
  ++meeting.rounds[round].arrived;
  return round;
}

}  // namespace

const char* KernelName() { return g_launch->kernel; }

std::string CoreName(int core) {
  const int block = core / g_launch->cores_a_block;
  if (g_launch->IsCube(core)) return "AIC " + std::to_string(block);
  const int place = core % g_launch->cores_a_block;
  return "AIV " +
         std::to_string(g_launch->cores_a_block > 1 ? block * g_sub_blocks + place - 1 : block);
}

const char* BaseName(const char* path) {
  const char* base = path;
  for (const char* c = path; *c; ++c) {
    if (*c == '/') base = c + 1;
  }
  return base;
}
int CoreCount() { return g_launch->cores; }

void Core::SyncAll(bool aiv_only, const Here& here) {
  Begin("SyncAll", kS, here);
  Launch& launch = *g_launch;
  if (aiv_only && cube) Reject("SyncAll<true> on a cube core: SyncAll<false> is for both kinds");
  Meeting& meeting = launch.sync_all[aiv_only];
  if (meeting.members == 0) {
    for (int i = 0; i < launch.cores; ++i) meeting.members += !aiv_only || !launch.IsCube(i);
  }
  const int physical = launch.type == KernelType::kAiv ? 40 : 20;
  if (launch.blocks > physical)
    Reject("deadlock: SyncAll of %d blocks, of which %d run at a time", launch.blocks, physical);
  BarrierAll(here);
  name = "SyncAll";
  Flag flag = Release(kS, here);
  std::fill(flag.clock.own, flag.clock.own + kPipes, number);
  const int round = Arrive(meeting, *this, flag);
  WaitUntil([&meeting, round] { return meeting.rounds[round].arrived == meeting.members; },
            "the other cores at SyncAll");
  for (const auto& [from, other] : meeting.rounds[round].flags) {
    if (from != index) Acquire(kS, other, from);
  }
  for (int p = 0; p < kPipes; ++p) free[p] = done[p] = Max(free[p], free[kS]);
}

void Core::CrossCoreSetFlag(int mode, Pipe on, int flag_id, const Here& here) {
  Begin("CrossCoreSetFlag", on, here);
  if (on == kPipes) Reject("CrossCoreSetFlag of an unknown pipe");
  if (flag_id < 0 || flag_id > 10) Reject("cross-core flag %d, which must be in [0, 10]", flag_id);
  if (mode < 0 || mode > 2) Reject("mode %d, which must be 0, 1 or 2", mode);
  free[kS] += Cycles(1);
  Launch& launch = *g_launch;
  const Flag flag = Release(on, here);
  const int first = index - index % launch.cores_a_block;  // of the block
  const auto send = [&](int to, size_t needed) {
    auto& queue = launch.cross_flags[to][flag_id];
    if (std::count_if(queue.begin(), queue.end(),
                      [this](const CrossFlag& f) { return f.from == index; }) >= 15) {
      Reject("cross-core flag %d is set more than 15 times without a wait", flag_id);
    }
    queue.push_back({index, needed, flag});
  };
  if (mode == 2) {
    if (launch.cores_a_block == 1)
      Reject("mode 2 is between the AIC and the AIVs of a block; this kernel has one kind of core");
    if (cube) {
      for (int i = 1; i < launch.cores_a_block; ++i) send(first + i, 1);
    } else {
      send(first, static_cast<size_t>(launch.cores_a_block - 1));
    }
    return;
  }
  std::vector<int> group;
  for (int other = 0; other < launch.cores; ++other) {
    const bool same_block = other / launch.cores_a_block == index / launch.cores_a_block;
    if (launch.IsCube(other) == cube && (mode == 0 || same_block)) group.push_back(other);
  }
  for (const int other : group) send(other, group.size());
}

void Core::CrossCoreWaitFlag(Pipe on, int flag_id, const Here& here) {
  Begin("CrossCoreWaitFlag", on == kPipes ? kS : on, here);
  if (flag_id < 0 || flag_id > 10) Reject("cross-core flag %d, which must be in [0, 10]", flag_id);
  free[kS] += Cycles(1);
  auto& queue = g_launch->cross_flags[index][flag_id];
  // The first flag of each core that has set it.
  const auto firsts = [&queue] {
    std::vector<size_t> first;
    for (size_t i = 0; i < queue.size(); ++i) {
      const bool seen = std::any_of(first.begin(), first.end(),
                                    [&](size_t j) { return queue[j].from == queue[i].from; });
      if (!seen) first.push_back(i);
    }
    return first;
  };
  WaitUntil([&queue, firsts] { return !queue.empty() && firsts().size() >= queue.front().needed; },
            "cross-core flag " + std::to_string(flag_id));
  const std::vector<size_t> taken = firsts();
  for (const size_t i : taken) {
    // The scalar unit holds whatever it issues from here on.
    Acquire(kS, queue[i].flag, queue[i].from == index ? -1 : queue[i].from);
  }
  for (auto i = taken.rbegin(); i != taken.rend(); ++i)
    queue.erase(queue.begin() + static_cast<ptrdiff_t>(*i));
}

uint32_t launch(const char* kernel, KernelType type, uint32_t block_dim, void*,
                const std::function<void()>& body) {
  std::lock_guard<std::mutex> lock(g_mutex);
  const char* checks = std::getenv("MXD_SOFTNPU_CHECK");
  g_checks = checks == nullptr || checks[0] != '0';
  if (block_dim == 0 || block_dim > 65535) {
    softnpu_set_error((std::string("kernel ") + kernel + ": " + std::to_string(block_dim) +
                       " blocks, which must be in [1, 65535]")
                          .c_str());
    return kKernelError;
  }
  Launch state;
  state.kernel = kernel;
  state.type = type;
  state.blocks = static_cast<int>(block_dim);
  state.cores_a_block = type == KernelType::kMix12 ? 3 : type == KernelType::kMix11 ? 2 : 1;
  state.cores = state.blocks * state.cores_a_block;
  state.body = &body;
  state.cross_flags.resize(static_cast<size_t>(state.cores));
  g_block_dim = state.blocks;
  g_sub_blocks = type == KernelType::kMix12 ? 2 : 1;
  g_launch = &state;
  GlobalMemory::Get().BeginLaunch(state.cores);
  RunAll();
  for (const auto& fiber : state.fibers) Retire(*fiber);
  if (!state.failed) CheckCrossFlags();
  if (!state.failed) state.profile.Write(kernel, type, state.blocks);
  g_launch = nullptr;
  if (!state.failed) return kSuccess;
  if (!state.error.empty()) softnpu_set_error(state.error.c_str());
  return kKernelError;
}

}  // namespace softnpu
