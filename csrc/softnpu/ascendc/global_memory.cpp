#include "global_memory.h"

#include <algorithm>

#include "scheduler.h"

extern "C" __attribute__((weak)) int softnpu_check(const void* address, size_t bytes,
                                                   const char* what);

namespace softnpu {
namespace {

bool Ordered(const Core& core, uint16_t other, uint8_t pipe, int32_t number) {
  const Clock& clock = core.clock[core.pipe];
  if (other == core.index) return (pipe == kS && core.pipe == kS) || clock.own[pipe] >= number;
  const size_t at = static_cast<size_t>(other) * kPipes + pipe;
  return at < clock.others.size() && clock.others[at] >= number;
}

}  // namespace

GlobalMemory& GlobalMemory::Get() {
  static GlobalMemory memory;
  return memory;
}

void GlobalMemory::BeginLaunch(int cores) {
  constexpr size_t kMostPages =
      1 << 17;  // half a gigabyte of global memory, and about as much of shadow
  if (pages_.size() > kMostPages) pages_.clear();
  ++launch_;
  cores_ = cores;
  last_id_ = ~0ull;
  blocks_read_ = blocks_written_ = blocks_touched_ = 0;
  live_.clear();
  cached_.clear();
}

void GlobalMemory::CheckLive(Core& core, uintptr_t address, uint64_t bytes, bool write) {
  for (size_t i = 0; i < live_.size(); ++i) {
    if (address < live_[i].start || address + bytes > live_[i].start + live_[i].bytes) continue;
    if (i > 0) std::swap(live_[i], live_[i - 1]);  // the ones in use come first
    return;
  }
  softnpu_allocation found;
  if (softnpu_find(reinterpret_cast<const void*>(address), &found) &&
      address + bytes <= found.start + found.bytes) {
    live_.push_back(found);
    return;
  }
  // The runtime knows what the address is instead, and says so.
  const std::string what = core.Place() + (write ? "writes" : "reads") + " global memory:";
  if (softnpu_check != nullptr &&
      !softnpu_check(reinterpret_cast<const void*>(address), bytes, what.c_str()))
    throw Violation("");
  core.Reject("%s %llu B of global memory at %p, which are not of one live allocation",
              write ? "writes" : "reads", static_cast<unsigned long long>(bytes),
              reinterpret_cast<void*>(address));
}

GlobalMemory::Page& GlobalMemory::PageAt(uint64_t id) {
  if (id == last_id_) return *last_page_;
  std::unique_ptr<Page>& slot = pages_[id];
  if (!slot) slot = std::make_unique<Page>();
  Page& page = *slot;
  if (page.launch != launch_) {
    page.launch = launch_;
    for (uint32_t i = 0; i < kPageBlocks / 64; ++i) page.read[i] = page.written[i] = 0;
    if (g_checks) page.cells.assign(kPageBlocks, Cell());
    for (auto& reads : page.reads) reads.clear();
  }
  last_id_ = id;
  last_page_ = &page;
  return page;
}

void GlobalMemory::Access(Core& core, uintptr_t address, uint64_t bytes, bool write, bool cached) {
  if (bytes == 0) return;
  CheckLive(core, address, bytes, write);
  const uint64_t first = address / kBlock, last = (address + bytes - 1) / kBlock;
  for (uint64_t block = first; block <= last;) {
    Page& page = PageAt(block / kPageBlocks);
    const uint64_t end = std::min(last, block | (kPageBlocks - 1));
    for (; block <= end; ++block) {
      const uint32_t at = block % kPageBlocks;
      const uint64_t bit = 1ull << (at % 64);
      uint64_t& seen = (write ? page.written : page.read)[at / 64];
      if (!(seen & bit)) {
        if (!((write ? page.read : page.written)[at / 64] & bit)) ++blocks_touched_;
        seen |= bit;
        ++(write ? blocks_written_ : blocks_read_);
      }
      if (!g_checks) continue;
      uint32_t mask = ~0u;
      if (block == first) mask &= ~0u << (address % kBlock);
      if (block == last && (address + bytes) % kBlock)
        mask &= (1u << ((address + bytes) % kBlock)) - 1;
      Check(core, page, at, mask, block * kBlock, write, cached);
    }
  }
  if (cached) cached_.emplace_back(core.index, address);
}

void GlobalMemory::Check(Core& core, Page& page, uint32_t at, uint32_t mask, uintptr_t address,
                         bool write, bool cached) {
  Cell& cell = page.cells[at];
  const bool atomic = write && core.atomic && !cached;
  bool ordered = true;
  if (cell.written) {
    const bool own = cell.writer == core.index;
    if (cell.cached && !(own && core.pipe == kS) && (cell.bytes & mask)) {
      core.Reject(
          "%s 32 B of global memory at %p that a scalar SetValue at line %d wrote and that are "
          "still in a data cache: "
          "DataCacheCleanAndInvalid is missing",
          write ? "writes" : "reads", reinterpret_cast<void*>(address), cell.line);
    }
    ordered = Ordered(core, cell.writer, cell.write_pipe, cell.written);
    const bool harmless = (own && !(cell.bytes & mask)) || (atomic && cell.atomic) ||
                          (!write && !own && !(cell.bytes & mask));
    if (!ordered && !harmless) {
      void* const where = reinterpret_cast<void*>(address);
      const std::string writer = CoreName(cell.writer);
      if (own) {
        core.Reject(
            "race: %s 32 B of global memory at %p that pipe %s wrote at line %d, and nothing "
            "orders "
            "the two: %s is missing",
            write ? "writes over" : "reads", where, kPipeNames[cell.write_pipe], cell.line,
            cell.write_pipe == core.pipe ? "PipeBarrier" : "SetFlag and WaitFlag");
      }
      if (write) {
        core.Reject(
            "lost update: several cores write the same 32 B of global memory at %p (%s at line %d) "
            "and %s",
            where, writer.c_str(), cell.line,
            atomic || cell.atomic
                ? "one of them without an atomic"
                : "nothing orders them: an atomic, SyncAll or a cross-core flag is missing");
      }
      core.Reject(
          "race: reads 32 B of global memory at %p that %s writes at line %d, and nothing orders "
          "the cores: "
          "SyncAll or a cross-core flag is missing",
          where, writer.c_str(), cell.line);
    }
  }
  if (!write) {
    const bool by_scalar = core.pipe == kS;
    auto& reads = page.reads[by_scalar];
    if (reads.empty()) reads.resize(static_cast<size_t>(cores_));
    reads[core.index] = core.number;
    for (Reading& reading : cell.readings) {
      if (reading.number && (reading.reader != core.index || reading.pipe != core.pipe)) continue;
      reading = {core.number, static_cast<uint16_t>(core.index), core.pipe};
      return;
    }
    for (const Reading& reading : cell.readings) cell.readers |= 1ull << (reading.reader % 64);
    cell.readers |= 1ull << (core.index % 64);
    return;
  }
  if (cell.readings[0].number) {
    const auto report = [&](int reader) {
      core.Reject(
          "race: writes 32 B of global memory at %p that %s reads, and nothing orders the two",
          reinterpret_cast<void*>(address),
          reader == core.index ? "the same core" : CoreName(reader).c_str());
    };
    if (cell.readers == 0) {
      for (const Reading& reading : cell.readings) {
        if (reading.number && !Ordered(core, reading.reader, reading.pipe, reading.number))
          report(reading.reader);
      }
    } else {
      for (int s = 0; s < 2; ++s) {
        for (size_t reader = 0; reader < page.reads[s].size(); ++reader) {
          const int32_t number = page.reads[s][reader];
          if (number && cell.readers >> (reader % 64) & 1 &&
              !Ordered(core, static_cast<uint16_t>(reader), s ? kS : kMte2, number)) {
            report(static_cast<int>(reader));
          }
        }
      }
    }
  }
  if (!atomic) {  // what comes after this write comes after those reads
    cell.readings[0] = cell.readings[1] = Reading();
    cell.readers = 0;
  }
  const bool adds = cell.written && cell.writer == core.index && !ordered;
  cell.bytes = adds ? cell.bytes | mask : mask;
  cell.written = core.number;
  cell.writer = static_cast<uint16_t>(core.index);
  cell.write_pipe = core.pipe;
  cell.line = core.line;
  cell.atomic = atomic;
  cell.cached = cached;
}

void GlobalMemory::Flush(Core& core, uintptr_t address, bool all) {
  constexpr uintptr_t kLine = 64;
  const auto flushed = [&](const std::pair<int, uintptr_t>& entry) {
    if (entry.first != core.index || (!all && entry.second / kLine != address / kLine))
      return false;
    if (g_checks) {
      const uint64_t block = entry.second / kBlock;
      Cell& cell = PageAt(block / kPageBlocks).cells[block % kPageBlocks];
      if (cell.writer == core.index) cell.cached = false;
    }
    --core.unflushed;
    return true;
  };
  cached_.erase(std::remove_if(cached_.begin(), cached_.end(), flushed), cached_.end());
}

}  // namespace softnpu
