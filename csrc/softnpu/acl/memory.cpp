// Device memory: each device has an address range of its own, so that a host pointer, a pointer of
// another device or a wild one is never mistaken for one of this device. Nothing is shared between
// the lists of live, freed and never used memory, which is what makes an error able to say which of
// the three an address belongs to.
#include "memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <set>
#include <shared_mutex>

#include "runtime.h"

namespace softnpu {
namespace {

// Device d starts at 0x4a0000000000 + d * 2^40: 0x4a..., 0x4b..., recognisable in any message.
constexpr uintptr_t kBase = 0x4a0000000000;
constexpr uintptr_t kStride = 1ull << 40;
constexpr size_t kAlignment = 512;
// No allocation touches the next: one byte past an allocation is never live.
constexpr size_t kGuard = 512;
// Freed memory is kept apart until this much has been freed after it, so that a late use of it is
// still told from a use of what came in its place.
constexpr size_t kQuarantine = 256ull << 20;
// Every byte 0xff: a NaN in all float types, -1 in the integers, and no valid index.
constexpr int kPoison = 0xff;

struct Freed {
  uintptr_t start;
  size_t room;
};

class Device {
 public:
  explicit Device(int index) : index_(index), base_(kBase + index * kStride), next_(base_) {
    void* wanted = reinterpret_cast<void*>(base_);
    void* got = mmap(wanted, kDeviceBytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (got != wanted) throw std::bad_alloc();
  }

  // nullptr where the device is full.
  void* allocate(size_t bytes) {
    std::unique_lock lock(mutex_);
    const size_t room = (bytes + kAlignment - 1) / kAlignment * kAlignment + kGuard;
    uintptr_t start = take_free(room);
    if (!start) {
      while (next_ + room > base_ + kDeviceBytes && !quarantine_.empty()) release_oldest();
      if (!(start = take_free(room))) {
        if (next_ + room > base_ + kDeviceBytes) return nullptr;
        start = next_;
        next_ += room;
        memset(reinterpret_cast<void*>(start), kPoison, room);
      }
    }
    live_[start] = {bytes, room};
    live_bytes_ += bytes;
    return reinterpret_cast<void*>(start);
  }

  // False where no allocation starts there.
  bool free(void* address) {
    std::unique_lock lock(mutex_);
    auto found = live_.find(reinterpret_cast<uintptr_t>(address));
    if (found == live_.end()) return false;
    auto [bytes, room] = found->second;
    memset(address, kPoison, room);
    live_bytes_ -= bytes;
    quarantine_.push_back({found->first, room});
    quarantined_ += room;
    live_.erase(found);
    while (quarantined_ > kQuarantine) release_oldest();
    return true;
  }

  bool find(uintptr_t address, softnpu_allocation* out) const {
    std::shared_lock lock(mutex_);
    auto after = live_.upper_bound(address);
    if (after == live_.begin()) return false;
    auto [start, size] = *std::prev(after);
    *out = {start, size.bytes, index_};
    return address - start < size.bytes || (address == start && size.bytes == 0);
  }

  // What an address that is not live is, for a message.
  std::string describe(uintptr_t address) const {
    std::shared_lock lock(mutex_);
    const auto device = "memory of device " + std::to_string(index_);
    auto after = live_.upper_bound(address);
    if (after != live_.begin()) {
      auto [start, size] = *std::prev(after);
      if (address - start < size.room)
        return device + ", " + std::to_string(address - start - size.bytes) +
               " B past the end of an allocation of " + std::to_string(size.bytes) + " B at " +
               hex(reinterpret_cast<void*>(start));
    }
    return device + (address < next_ ? " that was freed" : " that was never allocated");
  }

  size_t live_bytes() const {
    std::shared_lock lock(mutex_);
    return live_bytes_;
  }

 private:
  struct Size {
    size_t bytes, room;  // as asked for, and with alignment and guard
  };

  // The smallest free range with the room, what is left of it staying free; 0 where there is none.
  uintptr_t take_free(size_t room) {
    auto found = free_by_room_.lower_bound({room, 0});
    if (found == free_by_room_.end()) return 0;
    auto [got, start] = *found;
    free_by_room_.erase(found);
    free_.erase(start);
    if (got > room) insert_free(start + room, got - room);
    return start;
  }

  void insert_free(uintptr_t start, size_t room) {
    free_[start] = room;
    free_by_room_.insert({room, start});
  }

  void release_oldest() {
    auto [start, room] = quarantine_.front();
    quarantine_.pop_front();
    quarantined_ -= room;
    auto after = free_.lower_bound(start);
    if (after != free_.end() && after->first == start + room) {
      room += after->second;
      free_by_room_.erase({after->second, after->first});
      after = free_.erase(after);
    }
    if (after != free_.begin()) {
      auto before = std::prev(after);
      if (before->first + before->second == start) {
        start = before->first;
        room += before->second;
        free_by_room_.erase({before->second, before->first});
        free_.erase(before);
      }
    }
    insert_free(start, room);
  }

  const int index_;
  const uintptr_t base_;
  uintptr_t next_;  // from here on nothing was ever allocated
  mutable std::shared_mutex mutex_;
  std::map<uintptr_t, Size> live_;
  std::deque<Freed> quarantine_;
  size_t quarantined_ = 0, live_bytes_ = 0;
  std::map<uintptr_t, size_t> free_;
  std::set<std::pair<size_t, uintptr_t>> free_by_room_;
};

// Made at first use and never destroyed: threads may still free memory while the process ends.
Device& device(int index) {
  static Device** devices = [] {
    auto all = new Device*[kMaxDevices]();
    for (int i = 0; i < device_count(); i++) all[i] = new Device(i);
    return all;
  }();
  return *devices[index];
}

// The device whose range holds the address, -1 for host memory.
int device_of(const void* address) {
  const auto offset = reinterpret_cast<uintptr_t>(address) - kBase;
  const auto index = offset / kStride;
  return index < static_cast<uintptr_t>(device_count()) && offset % kStride < kDeviceBytes
             ? static_cast<int>(index)
             : -1;
}

// Page-locked host memory, so that freeing anything else as such is noticed.
class PinnedMemory {
 public:
  void* allocate(size_t bytes) {
    void* memory = aligned_alloc(kAlignment, (bytes + kAlignment) / kAlignment * kAlignment);
    std::lock_guard lock(mutex_);
    if (memory) sizes_[reinterpret_cast<uintptr_t>(memory)] = bytes;
    return memory;
  }

  bool free(void* address) {
    std::lock_guard lock(mutex_);
    if (!sizes_.erase(reinterpret_cast<uintptr_t>(address))) return false;
    ::free(address);
    return true;
  }

  bool holds(const void* pointer) {
    const auto address = reinterpret_cast<uintptr_t>(pointer);
    std::lock_guard lock(mutex_);
    auto after = sizes_.upper_bound(address);
    return after != sizes_.begin() && address - std::prev(after)->first < std::prev(after)->second;
  }

 private:
  std::mutex mutex_;
  std::map<uintptr_t, size_t> sizes_;
};

PinnedMemory& pinned() {
  static auto* memory = new PinnedMemory;
  return *memory;
}

bool check_host(const void* address, const std::string& what) {
  if (!address)
    fail(ACL_ERROR_INVALID_PARAM, what + " is a null pointer");
  else if (int index = device_of(address); index >= 0)
    fail(ACL_ERROR_INVALID_PARAM, what + " " + hex(address) + " is memory of device " +
                                      std::to_string(index) + ", not of the host");
  else
    return true;
  return false;
}

aclError copy(const std::string& name, void* to, size_t room, const void* from, size_t bytes,
              aclrtMemcpyKind kind) {
  if (bytes == 0) return ACL_SUCCESS;
  if (bytes > room)
    return fail(ACL_ERROR_INVALID_PARAM, name + ": " + std::to_string(bytes) +
                                             " B do not fit into the destination of " +
                                             std::to_string(room) + " B");
  bool to_device, from_device;
  switch (kind) {
    case ACL_MEMCPY_HOST_TO_HOST:
      to_device = from_device = false;
      break;
    case ACL_MEMCPY_HOST_TO_DEVICE:
    case ACL_MEMCPY_HOST_TO_BUF_TO_DEVICE:
      to_device = true, from_device = false;
      break;
    case ACL_MEMCPY_DEVICE_TO_HOST:
      to_device = false, from_device = true;
      break;
    case ACL_MEMCPY_DEFAULT:
      to_device = device_of(to) >= 0, from_device = device_of(from) >= 0;
      break;
    default:
      to_device = from_device = true;
  }
  const auto target = name + ": the destination", source = name + ": the source";
  const bool right =
      (to_device ? softnpu_check(to, bytes, target.c_str()) : check_host(to, target)) &&
      (from_device ? softnpu_check(from, bytes, source.c_str()) : check_host(from, source));
  if (!right) return ACL_ERROR_INVALID_PARAM;
  memmove(to, from, bytes);
  return ACL_SUCCESS;
}

aclError set(const std::string& name, void* to, size_t room, int value, size_t bytes) {
  if (bytes == 0) return ACL_SUCCESS;
  if (bytes > room)
    return fail(ACL_ERROR_INVALID_PARAM, name + ": " + std::to_string(bytes) +
                                             " B do not fit into " + std::to_string(room) + " B");
  if (!softnpu_check(to, bytes, (name + ": the destination").c_str()))
    return ACL_ERROR_INVALID_PARAM;
  memset(to, value, bytes);
  return ACL_SUCCESS;
}

aclError allocate(void** address, size_t bytes) {
  *address = device(current_device()).allocate(bytes);
  return *address
             ? ACL_SUCCESS
             : fail(ACL_ERROR_BAD_ALLOC, "aclrtMalloc: device " + std::to_string(current_device()) +
                                             " has not " + std::to_string(bytes) + " B left");
}

}  // namespace

size_t live_bytes(int index) { return device(index).live_bytes(); }

}  // namespace softnpu

using namespace softnpu;

extern "C" {

int softnpu_find(const void* address, softnpu_allocation* out) {
  const int index = device_of(address);
  return index >= 0 && device(index).find(reinterpret_cast<uintptr_t>(address), out);
}

int softnpu_check(const void* address, size_t bytes, const char* what) {
  const std::string subject = std::string(what) + " " + hex(address);
  const int index = device_of(address);
  softnpu_allocation found;
  if (index < 0) {
    fail(ACL_ERROR_INVALID_PARAM, subject + (address ? " is host memory" : " is a null pointer") +
                                      ", not memory of a device");
  } else if (!softnpu_find(address, &found)) {
    fail(ACL_ERROR_INVALID_PARAM,
         subject + " is " + device(index).describe(reinterpret_cast<uintptr_t>(address)));
  } else if (const size_t left = found.start + found.bytes - reinterpret_cast<uintptr_t>(address);
             bytes > left) {
    fail(ACL_ERROR_INVALID_PARAM,
         subject + " has " + std::to_string(left) + " B to the end of its allocation of " +
             std::to_string(found.bytes) + " B at " + hex(reinterpret_cast<void*>(found.start)) +
             ", not " + std::to_string(bytes));
  } else {
    return 1;
  }
  return 0;
}

aclError aclrtMalloc(void** address, size_t bytes, aclrtMemMallocPolicy) {
  return allocate(address, bytes);
}

aclError aclrtMallocAlign32(void** address, size_t bytes, aclrtMemMallocPolicy) {
  return allocate(address, bytes);
}

aclError aclrtFree(void* address) {
  const int index = device_of(address);
  if (index >= 0 && device(index).free(address)) return ACL_SUCCESS;
  softnpu_allocation found;
  if (softnpu_find(address, &found))
    return fail(ACL_ERROR_INVALID_PARAM, "aclrtFree: " + hex(address) +
                                             " lies inside of an allocation that starts at " +
                                             hex(reinterpret_cast<void*>(found.start)));
  softnpu_check(address, 0, "aclrtFree:");
  return ACL_ERROR_INVALID_PARAM;
}

aclError aclrtMallocHost(void** address, size_t bytes) {
  *address = pinned().allocate(bytes);
  return *address ? ACL_SUCCESS : fail(ACL_ERROR_BAD_ALLOC, "aclrtMallocHost: no memory left");
}

aclError aclrtFreeHost(void* address) {
  return pinned().free(address) ? ACL_SUCCESS
                                : fail(ACL_ERROR_INVALID_PARAM, "aclrtFreeHost: " + hex(address) +
                                                                    " is not from aclrtMallocHost");
}

aclError aclrtPointerGetAttributes(const void* address, aclrtPtrAttributes* attributes) {
  *attributes = {};
  softnpu_allocation found;
  if (softnpu_find(address, &found))
    attributes->location = {static_cast<uint32_t>(found.device), ACL_MEM_LOCATION_TYPE_DEVICE};
  else
    attributes->location.type =
        pinned().holds(address) ? ACL_MEM_LOCATION_TYPE_HOST : ACL_MEM_LOCATION_TYPE_UNREGISTERED;
  return ACL_SUCCESS;
}

aclError aclrtMemcpy(void* to, size_t room, const void* from, size_t bytes, aclrtMemcpyKind kind) {
  return copy("aclrtMemcpy", to, room, from, bytes, kind);
}

aclError aclrtMemcpyAsync(void* to, size_t room, const void* from, size_t bytes,
                          aclrtMemcpyKind kind, aclrtStream) {
  return copy("aclrtMemcpyAsync", to, room, from, bytes, kind);
}

aclError aclrtMemset(void* to, size_t room, int32_t value, size_t bytes) {
  return set("aclrtMemset", to, room, value, bytes);
}

aclError aclrtMemsetAsync(void* to, size_t room, int32_t value, size_t bytes, aclrtStream) {
  return set("aclrtMemsetAsync", to, room, value, bytes);
}

aclError aclrtGetMemInfo(aclrtMemAttr, size_t* free_bytes, size_t* total) {
  *total = kDeviceBytes;
  *free_bytes = kDeviceBytes - live_bytes(current_device());
  return ACL_SUCCESS;
}
}
