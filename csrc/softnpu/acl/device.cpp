// Devices, contexts, settings and errors.
#include <acl/acl_op_compiler.h>
#include <dlfcn.h>
#include <sys/prctl.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <mutex>

#include "memory.h"
#include "runtime.h"

namespace softnpu {
namespace {

thread_local int device_of_thread = 0;
// One context a device: its address is all that it is.
char contexts[kMaxDevices];

std::mutex error_mutex;
std::string last_error;

aclError check_device(int device, const char* name) {
  if (device >= 0 && device < device_count()) return ACL_SUCCESS;
  return fail(ACL_ERROR_INVALID_DEVICE, std::string(name) + ": device " + std::to_string(device) +
                                            " of " + std::to_string(device_count()) +
                                            " (MXD_SOFTNPU_DEVICES sets how many there are)");
}

// The ATen ops of the software NPU lie beside this library, as CANN's operators beside its runtime.
// They replace what torch_npu has registered by the time that it first asks for a device.
aclError load_aten() {
  Dl_info here;
  dladdr(reinterpret_cast<void*>(&load_aten), &here);
  const auto path = std::filesystem::path(here.dli_fname).replace_filename("libmxd_aten.so");
  if (!std::filesystem::exists(path) || dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL))
    return ACL_SUCCESS;
  return fail(ACL_ERROR_INTERNAL_ERROR, std::string("aclInit: ") + dlerror());
}

// torch_npu's threads look for work again and again, with sleeps of a few microseconds in between:
// a core is busy with that alone. From here on a sleep of a thread and of those that it starts may
// last this much longer; what waits for a signal is not touched.
void let_sleeps_last() {
  constexpr unsigned long kNanoseconds = 2'000'000;
  prctl(PR_SET_TIMERSLACK, kNanoseconds);
}

}  // namespace

int device_count() {
  static const int count = [] {
    const char* text = getenv("MXD_SOFTNPU_DEVICES");
    const int wanted = text ? atoi(text) : 1;
    if (wanted >= 1 && wanted <= kMaxDevices) return wanted;
    fprintf(stderr, "softnpu: MXD_SOFTNPU_DEVICES is %s: 1 to %d are possible, 1 is used\n", text,
            kMaxDevices);
    return 1;
  }();
  return count;
}

int current_device() { return device_of_thread; }

aclError fail(aclError code, const std::string& message) {
  softnpu_set_error(message.c_str());
  return code;
}

std::string hex(const void* address) {
  char text[32];
  snprintf(text, sizeof(text), "%p", address);
  return address ? text : "0x0";
}

}  // namespace softnpu

using namespace softnpu;

extern "C" {

void softnpu_set_error(const char* message) {
  fprintf(stderr, "softnpu: %s\n", message);
  std::lock_guard lock(error_mutex);
  last_error = message;
}

// Kernels run in torch_npu's queue threads, the question comes from another: one text for all.
const char* aclGetRecentErrMsg() {
  thread_local std::string text;
  std::lock_guard lock(error_mutex);
  text.swap(last_error);
  last_error.clear();
  return text.empty() ? nullptr : text.c_str();
}

// Where a kernel was launched from, as the ATen ops know it: a part of its line in the profile.
static const char* (*place_source)() = nullptr;
void softnpu_set_place(const char* (*source)()) { place_source = source; }
const char* softnpu_place() { return place_source ? place_source() : ""; }

// What a stub of make_stubs.py calls.
int softnpu_stub(const char* name) {
  return fail(ACL_ERROR_API_NOT_SUPPORT, std::string(name) + " is not part of the software NPU");
}

aclError aclInit(const char*) {
  let_sleeps_last();
  return load_aten();
}
aclError aclFinalize() { return ACL_SUCCESS; }
// MXD_SOFTNPU_SOC: another name, for tests.
const char* aclrtGetSocName() {
  const char* name = std::getenv("MXD_SOFTNPU_SOC");
  return name ? name : "Ascend910B3";
}

aclError aclGetDeviceCapability(uint32_t, aclDeviceInfo what, int64_t* value) {
  switch (what) {
    case ACL_DEVICE_INFO_AI_CORE_NUM:
      *value = 20;
      return ACL_SUCCESS;
    case ACL_DEVICE_INFO_VECTOR_CORE_NUM:
      *value = 40;
      return ACL_SUCCESS;
    case ACL_DEVICE_INFO_L2_SIZE:
      *value = 192 << 20;
      return ACL_SUCCESS;
    default:
      return fail(ACL_ERROR_INVALID_PARAM, "aclGetDeviceCapability: unknown value asked for");
  }
}

aclError aclrtGetDeviceCount(uint32_t* count) {
  *count = device_count();
  return ACL_SUCCESS;
}

aclError aclrtSetDevice(int32_t device) {
  if (aclError error = check_device(device, "aclrtSetDevice")) return error;
  device_of_thread = device;
  return ACL_SUCCESS;
}

aclError aclrtGetDevice(int32_t* device) {
  *device = device_of_thread;
  return ACL_SUCCESS;
}

aclError aclrtResetDevice(int32_t device) { return check_device(device, "aclrtResetDevice"); }

aclError aclrtGetCurrentContext(aclrtContext* context) {
  *context = &contexts[device_of_thread];
  return ACL_SUCCESS;
}

aclError aclrtSetCurrentContext(aclrtContext context) {
  const auto device = static_cast<char*>(context) - contexts;
  if (device < 0 || device >= device_count())
    return fail(ACL_ERROR_INVALID_PARAM, "aclrtSetCurrentContext: not a context of this process");
  device_of_thread = static_cast<int>(device);
  return ACL_SUCCESS;
}

aclError aclrtGetPrimaryCtxState(int32_t device, uint32_t* flags, int32_t* active) {
  if (aclError error = check_device(device, "aclrtGetPrimaryCtxState")) return error;
  if (flags) *flags = 0;
  *active = 1;
  return ACL_SUCCESS;
}

aclError aclrtDeviceCanAccessPeer(int32_t* can, int32_t device, int32_t peer) {
  *can = device != peer;
  return ACL_SUCCESS;
}

aclError aclrtDeviceEnablePeerAccess(int32_t peer, uint32_t) {
  return check_device(peer, "aclrtDeviceEnablePeerAccess");
}

aclError aclrtPeekAtLastError(aclrtLastErrLevel) { return ACL_SUCCESS; }
aclError aclrtGetLastError(aclrtLastErrLevel) { return ACL_SUCCESS; }

// Settings with nothing to set: there is one rounding, no saturation and no time limit here.
aclError aclrtSetDeviceSatMode(aclrtFloatOverflowMode) { return ACL_SUCCESS; }
aclError aclrtSetOpExecuteTimeOut(uint32_t) { return ACL_SUCCESS; }
aclError aclrtSetOpExecuteTimeOutWithMs(uint32_t) { return ACL_SUCCESS; }
aclError aclrtSetOpWaitTimeout(uint32_t) { return ACL_SUCCESS; }
aclError aclrtSetSysParamOpt(aclSysParamOpt, int64_t) { return ACL_SUCCESS; }
aclError aclrtCtxSetSysParamOpt(aclSysParamOpt, int64_t) { return ACL_SUCCESS; }
aclError aclSetCompileopt(aclCompileOpt, const char*) { return ACL_SUCCESS; }

aclError aclrtGetSysParamOpt(aclSysParamOpt, int64_t* value) {
  *value = 0;
  return ACL_SUCCESS;
}

aclError aclrtCtxGetSysParamOpt(aclSysParamOpt, int64_t* value) {
  *value = 0;
  return ACL_SUCCESS;
}

size_t aclGetCompileoptSize(aclCompileOpt) { return sizeof("disable"); }

aclError aclGetCompileopt(aclCompileOpt, char* value, size_t room) {
  snprintf(value, room, "disable");
  return ACL_SUCCESS;
}

void aclAppLog(aclLogLevel, const char*, const char*, uint32_t, const char*, ...) {}
}
