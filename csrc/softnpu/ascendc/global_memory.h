// Global memory as the kernels of a launch touch it: live allocations, who last wrote and read each
// 32 B.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "core.h"
#include "launch.h"

namespace softnpu {

class GlobalMemory {
 public:
  static GlobalMemory& Get();

  void BeginLaunch(int cores);
  void Access(Core& core, uintptr_t address, uint64_t bytes, bool write, bool cached);
  void Flush(Core& core, uintptr_t address, bool all);

  // The distinct bytes of the launch so far, counted in 32 B.
  uint64_t bytes_read() const { return blocks_read_ * kBlock; }
  uint64_t bytes_written() const { return blocks_written_ * kBlock; }
  uint64_t bytes_touched() const { return blocks_touched_ * kBlock; }

 private:
  static constexpr uint32_t kPageBlocks = 128;

  struct Reading {
    int32_t number = 0;  // of the last one, 0 for none
    uint16_t reader = 0;
    uint8_t pipe = 0;
  };
  struct Cell {
    int32_t written = 0;   // the number of the last write, 0 for none
    Reading readings[2];   // since then
    uint32_t bytes = 0;    // the bytes of the last writes that nothing has ordered
    int32_t line = 0;      // of the last write
    uint64_t readers = 0;  // a bit for each core that read, modulo 64, where there are more
    uint16_t writer = 0;
    uint8_t write_pipe = 0;
    bool atomic = false;
    bool cached = false;  // in the data cache of the writer
  };
  struct Page {
    uint64_t launch = 0;
    uint64_t read[kPageBlocks / 64] = {};
    uint64_t written[kPageBlocks / 64] = {};
    std::vector<Cell> cells;
    std::vector<int32_t> reads[2];  // by core, the last read of the page by MTE2 and by S
  };

  void CheckLive(Core& core, uintptr_t address, uint64_t bytes, bool write);
  Page& PageAt(uint64_t id);
  void Check(Core& core, Page& page, uint32_t at, uint32_t mask, uintptr_t address, bool write,
             bool cached);

  std::unordered_map<uint64_t, std::unique_ptr<Page>> pages_;
  uint64_t last_id_ = ~0ull;
  Page* last_page_ = nullptr;
  uint64_t launch_ = 0;
  int cores_ = 0;
  uint64_t blocks_read_ = 0;
  uint64_t blocks_written_ = 0;
  uint64_t blocks_touched_ = 0;
  std::vector<softnpu_allocation> live_;
  std::vector<std::pair<int, uintptr_t>> cached_;  // scalar writes not flushed: core and address
};

}  // namespace softnpu
