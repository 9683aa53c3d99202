// Where a call comes from: the line of Python, the part of the model, the caller in C++.
#pragma once
#include <cstdint>
#include <string>

namespace softnpu {

struct Place {
  std::string phase;   // forward, backward, optimizer, validation
  std::string module;  // of the model, as named_modules() has it
  std::string line;    // file:line function
};

// The place of what runs in this thread. In a backward pass, the module and the line are those that
// made the autograd node.
Place current_place();

// That this thread makes its autograd nodes from a number on at a place, until another is noted.
void note_forward_place(const Place& place, uint64_t node);

// The function outside of PyTorch that called it in C++: the library and the offset in it, or
// nothing where Python did.
std::string native_caller();

}  // namespace softnpu
