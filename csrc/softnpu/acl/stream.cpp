// Streams and events. A stream runs each command in the thread that hands it over, at once:
// commands are in order, and all that is left to check is the use of events.
#include <atomic>
#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>

#include "runtime.h"

namespace softnpu {
namespace {

struct Stream {
  int id;
  int device;
};

struct Event {
  bool recorded = false;
  std::chrono::steady_clock::time_point at;
};

// The live handles of one kind, so that a handle that was destroyed or never made is noticed.
template <class T>
class Handles {
 public:
  explicit Handles(const char* kind) : kind_(kind) {}

  void* add(T value) {
    std::lock_guard lock(mutex_);
    auto handle = std::make_shared<T>(value);
    live_[handle.get()] = handle;
    return handle.get();
  }

  // nullptr, and the error set, where it is none of ours.
  std::shared_ptr<T> find(void* handle, const char* caller) {
    std::lock_guard lock(mutex_);
    auto found = live_.find(handle);
    if (found != live_.end()) return found->second;
    fail(ACL_ERROR_INVALID_RESOURCE_HANDLE,
         std::string(caller) + ": " + hex(handle) + " is no " + kind_ + ", or was destroyed");
    return nullptr;
  }

  bool erase(void* handle, const char* caller) {
    if (!find(handle, caller)) return false;
    std::lock_guard lock(mutex_);
    return live_.erase(handle) == 1;
  }

  size_t size() {
    std::lock_guard lock(mutex_);
    return live_.size();
  }

 private:
  const char* kind_;
  std::mutex mutex_;
  std::map<void*, std::shared_ptr<T>> live_;
};

Handles<Stream>& streams() {
  static auto* all = new Handles<Stream>("stream");
  return *all;
}

Handles<Event>& events() {
  static auto* all = new Handles<Event>("event");
  return *all;
}

std::mutex event_mutex;

aclError create_stream(aclrtStream* stream) {
  static std::atomic<int> next{1};
  *stream = streams().add({next++, current_device()});
  return ACL_SUCCESS;
}

// The default stream of a device is the null pointer.
aclError check_stream(aclrtStream stream, const char* caller) {
  return !stream || streams().find(stream, caller) ? ACL_SUCCESS
                                                   : ACL_ERROR_INVALID_RESOURCE_HANDLE;
}

aclError check_recorded(aclrtEvent event, const char* caller) {
  auto found = events().find(event, caller);
  if (!found) return ACL_ERROR_INVALID_RESOURCE_HANDLE;
  std::lock_guard lock(event_mutex);
  return found->recorded ? ACL_SUCCESS
                         : fail(ACL_ERROR_INVALID_PARAM,
                                std::string(caller) + ": the event was never recorded");
}

}  // namespace
}  // namespace softnpu

using namespace softnpu;

extern "C" {

aclError aclrtCreateStream(aclrtStream* stream) { return create_stream(stream); }

aclError aclrtCreateStreamWithConfig(aclrtStream* stream, uint32_t, uint32_t) {
  return create_stream(stream);
}

aclError aclrtDestroyStream(aclrtStream stream) {
  return streams().erase(stream, "aclrtDestroyStream") ? ACL_SUCCESS
                                                       : ACL_ERROR_INVALID_RESOURCE_HANDLE;
}

aclError aclrtDestroyStreamForce(aclrtStream stream) { return aclrtDestroyStream(stream); }

aclError aclrtSynchronizeStream(aclrtStream stream) {
  return check_stream(stream, "aclrtSynchronizeStream");
}

aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t) {
  return check_stream(stream, "aclrtSynchronizeStreamWithTimeout");
}

aclError aclrtSynchronizeDevice() { return ACL_SUCCESS; }
aclError aclrtSynchronizeDeviceWithTimeout(int32_t) { return ACL_SUCCESS; }

aclError aclrtStreamQuery(aclrtStream stream, aclrtStreamStatus* status) {
  *status = ACL_STREAM_STATUS_COMPLETE;
  return check_stream(stream, "aclrtStreamQuery");
}

aclError aclrtStreamGetId(aclrtStream stream, int32_t* id) {
  auto found = streams().find(stream, "aclrtStreamGetId");
  if (!found) return ACL_ERROR_INVALID_RESOURCE_HANDLE;
  *id = found->id;
  return ACL_SUCCESS;
}

aclError aclrtSetStreamFailureMode(aclrtStream stream, uint64_t) {
  return check_stream(stream, "aclrtSetStreamFailureMode");
}

aclError aclrtLaunchHostFunc(aclrtStream stream, aclrtHostFunc function, void* arguments) {
  if (aclError error = check_stream(stream, "aclrtLaunchHostFunc")) return error;
  function(arguments);
  return ACL_SUCCESS;
}

aclError aclrtCreateEventWithFlag(aclrtEvent* event, uint32_t) {
  *event = events().add({});
  return ACL_SUCCESS;
}

aclError aclrtCreateEventExWithFlag(aclrtEvent* event, uint32_t flag) {
  return aclrtCreateEventWithFlag(event, flag);
}

aclError aclrtDestroyEvent(aclrtEvent event) {
  return events().erase(event, "aclrtDestroyEvent") ? ACL_SUCCESS
                                                    : ACL_ERROR_INVALID_RESOURCE_HANDLE;
}

aclError aclrtRecordEvent(aclrtEvent event, aclrtStream stream) {
  auto found = events().find(event, "aclrtRecordEvent");
  if (!found || check_stream(stream, "aclrtRecordEvent")) return ACL_ERROR_INVALID_RESOURCE_HANDLE;
  std::lock_guard lock(event_mutex);
  found->recorded = true;
  found->at = std::chrono::steady_clock::now();
  return ACL_SUCCESS;
}

aclError aclrtResetEvent(aclrtEvent event, aclrtStream) {
  auto found = events().find(event, "aclrtResetEvent");
  if (!found) return ACL_ERROR_INVALID_RESOURCE_HANDLE;
  std::lock_guard lock(event_mutex);
  found->recorded = false;
  return ACL_SUCCESS;
}

aclError aclrtStreamWaitEvent(aclrtStream stream, aclrtEvent event) {
  if (aclError error = check_stream(stream, "aclrtStreamWaitEvent")) return error;
  return check_recorded(event, "aclrtStreamWaitEvent");
}

aclError aclrtSynchronizeEvent(aclrtEvent event) {
  return check_recorded(event, "aclrtSynchronizeEvent");
}

aclError aclrtQueryEventStatus(aclrtEvent event, aclrtEventRecordedStatus* status) {
  auto found = events().find(event, "aclrtQueryEventStatus");
  if (!found) return ACL_ERROR_INVALID_RESOURCE_HANDLE;
  std::lock_guard lock(event_mutex);
  *status =
      found->recorded ? ACL_EVENT_RECORDED_STATUS_COMPLETE : ACL_EVENT_RECORDED_STATUS_NOT_READY;
  return ACL_SUCCESS;
}

aclError aclrtQueryEventWaitStatus(aclrtEvent event, aclrtEventWaitStatus* status) {
  *status = ACL_EVENT_WAIT_STATUS_COMPLETE;
  return events().find(event, "aclrtQueryEventWaitStatus") ? ACL_SUCCESS
                                                           : ACL_ERROR_INVALID_RESOURCE_HANDLE;
}

aclError aclrtEventElapsedTime(float* milliseconds, aclrtEvent start, aclrtEvent end) {
  for (auto event : {start, end})
    if (aclError error = check_recorded(event, "aclrtEventElapsedTime")) return error;
  auto from = events().find(start, "aclrtEventElapsedTime");
  auto to = events().find(end, "aclrtEventElapsedTime");
  std::lock_guard lock(event_mutex);
  *milliseconds = std::chrono::duration<float, std::milli>(to->at - from->at).count();
  return ACL_SUCCESS;
}
}
