// The cores of a launch as fibers that take turns, where one waits for another.
#pragma once

#include <string>

namespace softnpu {

const char* KernelName();
int CoreCount();
std::string CoreName(int core);  // "AIV 3"
const char* BaseName(const char* path);

}  // namespace softnpu
