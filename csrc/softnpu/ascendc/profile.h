// What a launch cost: one JSON line for each, appended to the file that MXD_SOFTNPU_PROFILE names.
#pragma once

#include <cstdint>
#include <vector>

#include "core.h"
#include "launch.h"

namespace softnpu {

class Profile {
 public:
  void Add(const Core& core);
  void Write(const char* kernel, KernelType type, int blocks) const;

 private:
  struct CoreCost {
    int block = 0;
    Cycles end;
    Cycles busy[kPipes];
  };
  std::vector<CoreCost> cores_;
  PipeCounts totals_[kPipes];
  uint64_t scalar_local_ = 0;
  uint64_t scalar_global_ = 0;
  uint64_t bytes_in_ = 0;
  uint64_t bytes_out_ = 0;
  uint64_t cube_multiplies_ = 0;
  uint64_t bursts_[12] = {};
};

}  // namespace softnpu
