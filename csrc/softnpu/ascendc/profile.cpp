#include "profile.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "global_memory.h"

namespace softnpu {
namespace {

constexpr double kCyclesAMicrosecond = 1800;
constexpr double kDeviceBytesAMicrosecond = 1.6e6;
constexpr uint64_t kL2Bytes = 192ull << 20;
constexpr int kVectorCores = 40;
constexpr int kCubeCores = 20;

double Pick(const Cycles& cycles, bool l2) { return l2 ? cycles.l2 : cycles.device; }

}  // namespace

void Profile::Add(const Core& core) {
  CoreCost cost;
  cost.block = core.block;
  for (int p = 0; p < kPipes; ++p) {
    cost.end = Max(cost.end, Max(core.free[p], core.done[p]));
    cost.busy[p] = core.counts[p].busy;
    totals_[p].instructions += core.counts[p].instructions;
    totals_[p].bytes += core.counts[p].bytes;
    totals_[p].waits += core.counts[p].waits;
    totals_[p].busy += core.counts[p].busy;
  }
  // The scalar unit is busy with issuing too.
  cost.busy[kS] = core.free[kS].l2 < cost.busy[kS].l2 ? core.free[kS] : cost.busy[kS];
  cores_.push_back(cost);
  scalar_local_ += core.scalar_local;
  scalar_global_ += core.scalar_global;
  bytes_in_ += core.bytes_in;
  bytes_out_ += core.bytes_out;
  cube_multiplies_ += core.cube_multiplies;
  for (int i = 0; i < 12; ++i) bursts_[i] += core.bursts_by_size[i];
}

void Profile::Write(const char* kernel, KernelType type, int blocks) const {
  const char* path = std::getenv("MXD_SOFTNPU_PROFILE");
  if (path == nullptr || *path == '\0') return;
  const GlobalMemory& memory = GlobalMemory::Get();
  const bool l2 = memory.bytes_touched() <= kL2Bytes;
  // Blocks beyond the cores of the machine start as cores become free.
  std::vector<double> block_cycles(static_cast<size_t>(blocks));
  double busy_max[kPipes] = {};
  const CoreCost* slowest = &cores_[0];
  for (const CoreCost& core : cores_) {
    block_cycles[core.block] = std::max(block_cycles[core.block], Pick(core.end, l2));
    if (Pick(core.end, l2) > Pick(slowest->end, l2)) slowest = &core;
    for (int p = 0; p < kPipes; ++p) busy_max[p] = std::max(busy_max[p], Pick(core.busy[p], l2));
  }
  std::vector<double> slots(type == KernelType::kAiv ? kVectorCores : kCubeCores);
  for (const double cycles : block_cycles) {
    *std::min_element(slots.begin(), slots.end()) += cycles;
  }
  const double core_us = *std::max_element(slots.begin(), slots.end()) / kCyclesAMicrosecond;
  // The least that the bytes moved and the arithmetic take, spread evenly over the machine's cores.
  const double bytes_in = static_cast<double>(bytes_in_),
               bytes_out = static_cast<double>(bytes_out_);
  const double all_cores =
      kCyclesAMicrosecond * (type == KernelType::kAiv     ? kVectorCores
                             : type == KernelType::kAic   ? kCubeCores
                             : type == KernelType::kMix11 ? 2 * kCubeCores
                                                          : kVectorCores + kCubeCores);
  const double memory_us = l2 ? 0 : (bytes_in + bytes_out) / kDeviceBytesAMicrosecond;
  const double traffic_us = std::max(
      {memory_us, bytes_in / (l2 ? 110 : 32) / all_cores, bytes_out / (l2 ? 86 : 32) / all_cores});
  const double vector_us = Pick(totals_[kV].busy, l2) / kVectorCores / kCyclesAMicrosecond;
  const double cube_us = Pick(totals_[kM].busy, l2) / kCubeCores / kCyclesAMicrosecond;
  const double time = std::max(core_us, memory_us);
  int bound = 0;
  for (int p = 1; p < kPipes; ++p) {
    if (Pick(slowest->busy[p], l2) > Pick(slowest->busy[bound], l2)) bound = p;
  }
  std::string text;
  const auto add = [&text](const char* format, auto... values) {
    char part[512];
    std::snprintf(part, sizeof(part), format, values...);
    text += part;
  };
  using Big = unsigned long long;
  add("{\"kernel\": \"%s\", \"blocks\": %d, \"modelled_us\": %.6g, \"cycles\": %.10g, \"bound\": "
      "\"%s\"",
      kernel, blocks, time, core_us * kCyclesAMicrosecond,
      memory_us > core_us ? "device memory" : kPipeNames[bound]);
  add(", \"traffic_us\": %.6g, \"vector_us\": %.6g, \"cube_us\": %.6g, \"l2\": %s", traffic_us,
      vector_us, cube_us, l2 ? "true" : "false");
  add(", \"bytes_in\": %llu, \"bytes_out\": %llu, \"distinct_read\": %llu, \"distinct_written\": "
      "%llu",
      static_cast<Big>(bytes_in_), static_cast<Big>(bytes_out_),
      static_cast<Big>(memory.bytes_read()), static_cast<Big>(memory.bytes_written()));
  add(", \"scalar_local\": %llu, \"scalar_global\": %llu, \"cube_multiplies\": %llu",
      static_cast<Big>(scalar_local_), static_cast<Big>(scalar_global_),
      static_cast<Big>(cube_multiplies_));
  text += ", \"pipes\": {";
  for (int p = 0; p < kPipes; ++p) {
    add("%s\"%s\": {\"instructions\": %llu, \"waits\": %llu, \"bytes\": %llu, \"busy_max\": %.10g, "
        "\"busy_mean\": %.10g}",
        p ? ", " : "", kPipeNames[p], static_cast<Big>(totals_[p].instructions),
        static_cast<Big>(totals_[p].waits), static_cast<Big>(totals_[p].bytes), busy_max[p],
        Pick(totals_[p].busy, l2) / static_cast<double>(cores_.size()));
  }
  text += "}, \"bursts\": {";
  for (int i = 0, n = 0; i < 12; ++i) {
    if (bursts_[i])
      add("%s\"%llu\": %llu", n++ ? ", " : "", static_cast<Big>(32) << i,
          static_cast<Big>(bursts_[i]));
  }
  text += "}";
  text += softnpu_place();
  text += "}\n";
  if (std::FILE* file = std::fopen(path, "a")) {
    std::fwrite(text.data(), 1, text.size(), file);
    std::fclose(file);
  }
}

}  // namespace softnpu
