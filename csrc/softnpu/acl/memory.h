// The memory of the software NPU, as seen by the runtime and by the kernels that run on it.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {

struct softnpu_allocation {
  uintptr_t start;
  size_t bytes;
  int device;
};

// 1 and the allocation that holds the address, where it lies in live device memory; 0 elsewhere.
int softnpu_find(const void* address, struct softnpu_allocation* out);

// Whether `bytes` from the address lie in one live allocation. Otherwise sets the error, which
// says what the address is instead and calls it by `what` ("aclrtMemcpy: the source").
int softnpu_check(const void* address, size_t bytes, const char* what);

// The text of the next aclGetRecentErrMsg(); also printed to stderr.
void softnpu_set_error(const char* message);
}
