// What the files of the runtime share.
#pragma once
#include <acl/acl.h>

#include <string>

namespace softnpu {

constexpr int kMaxDevices = 8;
constexpr size_t kDeviceBytes = 64ull << 30;

// The number of devices, from MXD_SOFTNPU_DEVICES.
int device_count();

// The device of the calling thread: the one that it set, or else 0.
int current_device();

// Sets the error text and hands back the code, so that a function can end with `return fail(...)`.
aclError fail(aclError code, const std::string& message);

// The bytes of a device that are in live allocations.
size_t live_bytes(int device);

// An address as a message shows it: 0x4a0000000200.
std::string hex(const void* address);

}  // namespace softnpu
