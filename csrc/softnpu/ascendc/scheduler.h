// The cores of a launch as fibers that take turns, where one waits for another.
#pragma once

namespace softnpu {

const char* KernelName();
int CoreCount();

}  // namespace softnpu
