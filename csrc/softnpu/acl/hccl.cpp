// Collectives between the processes of one machine, over shared memory: a stand-in for HCCL.
//
// A communicator is a block of shared memory with a slot for each rank. Every collective is the
// same three steps, repeated until all bytes went through: each rank puts a piece of what it sends
// into its slot, all meet, each takes what it needs from the slots, all meet. What the ranks say
// they do is compared at the first meeting: ranks that call different collectives are an error,
// where the hardware would hang.
#include <fcntl.h>
#include <hccl/hccl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include "memory.h"
#include "runtime.h"

namespace softnpu {
namespace {

constexpr uint32_t kMaxRanks = 64;
constexpr size_t kSlot = 4 << 20;
constexpr auto kTimeout = std::chrono::minutes(10);

// What a rank says that it does.
struct Call {
  char name[24];
  uint64_t bytes;
  uint32_t type, detail;  // detail: the reduction or the root
};

struct Shared {
  std::atomic<uint32_t> arrived, meeting, broken;
  Call calls[kMaxRanks];
};

float from_half(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const float value = exponent == 31 ? (fraction ? NAN : INFINITY)
                      : exponent == 0
                          ? std::ldexp(static_cast<float>(fraction), -24)
                          : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
  return bits >> 15 ? -value : value;
}

uint16_t to_half(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return sign | 0x7e00;
  const float size = std::fabs(value);
  if (size >= 65520.f) return sign | 0x7c00;
  if (size < 6.103515625e-5f)  // 2^-14: below are the subnormal numbers
    return sign | static_cast<uint16_t>(std::nearbyint(std::ldexp(size, 24)));
  int exponent;
  const float fraction = std::frexp(size, &exponent);  // in [0.5, 1)
  // A fraction that rounds up to 1 carries into the exponent, as it should.
  const auto mantissa = static_cast<uint32_t>(std::nearbyint(std::ldexp(fraction, 11))) - 1024;
  return sign | static_cast<uint16_t>(((exponent + 14) << 10) + mantissa);
}

float from_bfloat16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  memcpy(&value, &wide, sizeof(value));
  return value;
}

uint16_t to_bfloat16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  if (std::isnan(value)) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

template <class T>
T reduce_two(T a, T b, HcclReduceOp op) {
  switch (op) {
    case HCCL_REDUCE_SUM:
      return a + b;
    case HCCL_REDUCE_PROD:
      return a * b;
    case HCCL_REDUCE_MAX:
      return std::max(a, b);
    default:
      return std::min(a, b);
  }
}

// out[i] = the reduction over the ranks, in their order, whatever rank asks: all get the same bits.
template <class T, class Load, class Store>
void reduce_as(char* out, const std::vector<const char*>& parts, size_t bytes, HcclReduceOp op,
               Load load, Store store) {
  for (size_t i = 0; i < bytes / sizeof(T); i++) {
    auto value = load(reinterpret_cast<const T*>(parts[0])[i]);
    for (size_t p = 1; p < parts.size(); p++)
      value = reduce_two(value, load(reinterpret_cast<const T*>(parts[p])[i]), op);
    reinterpret_cast<T*>(out)[i] = store(value);
  }
}

template <class T>
void reduce_plain(char* out, const std::vector<const char*>& parts, size_t bytes, HcclReduceOp op) {
  auto same = [](T value) { return value; };
  reduce_as<T>(out, parts, bytes, op, same, same);
}

bool reduce(char* out, const std::vector<const char*>& parts, size_t bytes, HcclDataType type,
            HcclReduceOp op) {
  switch (type) {
    case HCCL_DATA_TYPE_FP32:
      reduce_plain<float>(out, parts, bytes, op);
      return true;
    case HCCL_DATA_TYPE_FP16:
      reduce_as<uint16_t>(out, parts, bytes, op, from_half, to_half);
      return true;
    case HCCL_DATA_TYPE_BFP16:
      reduce_as<uint16_t>(out, parts, bytes, op, from_bfloat16, to_bfloat16);
      return true;
    case HCCL_DATA_TYPE_INT8:
      reduce_plain<int8_t>(out, parts, bytes, op);
      return true;
    case HCCL_DATA_TYPE_INT16:
      reduce_plain<int16_t>(out, parts, bytes, op);
      return true;
    case HCCL_DATA_TYPE_INT32:
      reduce_plain<int32_t>(out, parts, bytes, op);
      return true;
    case HCCL_DATA_TYPE_INT64:
      reduce_plain<int64_t>(out, parts, bytes, op);
      return true;
    default:  // as HCCL: no doubles, no unsigned integers
      return false;
  }
}

size_t size_of(HcclDataType type) {
  switch (type) {
    case HCCL_DATA_TYPE_INT8:
    case HCCL_DATA_TYPE_UINT8:
      return 1;
    case HCCL_DATA_TYPE_INT16:
    case HCCL_DATA_TYPE_UINT16:
    case HCCL_DATA_TYPE_FP16:
    case HCCL_DATA_TYPE_BFP16:
      return 2;
    case HCCL_DATA_TYPE_INT32:
    case HCCL_DATA_TYPE_UINT32:
    case HCCL_DATA_TYPE_FP32:
      return 4;
    default:
      return 8;
  }
}

HcclResult fail_hccl(HcclResult code, const std::string& message) {
  softnpu_set_error(message.c_str());
  return code;
}

class Communicator {
 public:
  Communicator(const char* name, uint32_t rank, uint32_t ranks)
      : rank_(rank), ranks_(ranks), bytes_(sizeof(Shared) + ranks * kSlot), name_(name) {}

  ~Communicator() {
    if (shared_) munmap(shared_, bytes_);
  }

  HcclResult connect() {
    const int file = shm_open(name_.c_str(), O_CREAT | O_RDWR, 0600);
    if (file < 0 || ftruncate(file, bytes_) != 0)
      return fail_hccl(HCCL_E_SYSCALL, "HCCL: no shared memory: " + std::string(strerror(errno)));
    void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (memory == MAP_FAILED)
      return fail_hccl(HCCL_E_SYSCALL, "HCCL: no shared memory: " + std::string(strerror(errno)));
    shared_ = static_cast<Shared*>(memory);
    const HcclResult met = meet({"connect", 0, 0, 0});
    if (rank_ == 0) shm_unlink(name_.c_str());
    return met;
  }

  // One collective: every rank sends `send_bytes`, in pieces; `take(offset, bytes, slots)` gets
  // each piece of all ranks.
  HcclResult run(Call call, const void* send, size_t send_bytes,
                 const std::function<void(size_t, size_t, const std::vector<const char*>&)>& take) {
    std::vector<const char*> slots;
    for (uint32_t r = 0; r < ranks_; r++) slots.push_back(slot(r));
    size_t offset = 0;
    do {
      const size_t piece = std::min(kSlot, send_bytes - offset);
      if (send) memcpy(slot(rank_), static_cast<const char*>(send) + offset, piece);
      if (HcclResult error = meet(call)) return error;
      take(offset, piece, slots);
      if (HcclResult error = meet(call)) return error;
      offset += piece;
    } while (offset < send_bytes);
    return HCCL_SUCCESS;
  }

  uint32_t rank() const { return rank_; }
  uint32_t ranks() const { return ranks_; }
  const std::string& name() const { return name_; }

 private:
  char* slot(uint32_t rank) const {
    return reinterpret_cast<char*>(shared_) + sizeof(Shared) + rank * kSlot;
  }

  // Waits until every rank is here, and compares what they do.
  HcclResult meet(const Call& call) {
    const uint32_t meeting = shared_->meeting;
    shared_->calls[rank_] = call;
    if (++shared_->arrived == ranks_) {
      for (uint32_t r = 0; r < ranks_; r++)
        if (memcmp(&shared_->calls[r], &call, sizeof(Call)) != 0) shared_->broken = 1;
      shared_->arrived = 0;
      shared_->meeting++;
    }
    const auto deadline = std::chrono::steady_clock::now() + kTimeout;
    while (shared_->meeting == meeting) {
      std::this_thread::sleep_for(std::chrono::microseconds(20));
      if (std::chrono::steady_clock::now() > deadline)
        return fail_hccl(HCCL_E_TIMEOUT, std::string(call.name) + ": rank " +
                                             std::to_string(rank_) +
                                             " waited ten minutes for the others");
    }
    if (!shared_->broken) return HCCL_SUCCESS;
    std::string message = "HCCL: the ranks do not call the same collective:";
    for (uint32_t r = 0; r < ranks_; r++) {
      const Call& other = shared_->calls[r];
      message += " rank " + std::to_string(r) + " " + other.name + " of " +
                 std::to_string(other.bytes) + " B;";
    }
    return fail_hccl(HCCL_E_PARA, message);
  }

  const uint32_t rank_, ranks_;
  const size_t bytes_;
  const std::string name_;
  Shared* shared_ = nullptr;
};

Communicator& of(HcclComm comm) { return *static_cast<Communicator*>(comm); }

bool check(const char* name, const void* send, size_t send_bytes, const void* receive,
           size_t receive_bytes) {
  const std::string subject = name;
  return (!send || softnpu_check(send, send_bytes, (subject + ": the send buffer").c_str())) &&
         (!receive ||
          softnpu_check(receive, receive_bytes, (subject + ": the receive buffer").c_str()));
}

HcclResult all_reduce(const char* name, void* send, void* receive, uint64_t count,
                      HcclDataType type, HcclReduceOp op, HcclComm comm, uint32_t only) {
  const size_t bytes = count * size_of(type);
  const bool takes = only == kMaxRanks || only == of(comm).rank();
  if (!check(name, send, bytes, takes ? receive : nullptr, bytes)) return HCCL_E_PARA;
  bool known = true;
  Call call{{}, bytes, static_cast<uint32_t>(type), op + 256 * only};
  strncpy(call.name, name, sizeof(call.name) - 1);
  HcclResult done = of(comm).run(call, send, bytes, [&](size_t offset, size_t piece, auto& slots) {
    if (takes) known &= reduce(static_cast<char*>(receive) + offset, slots, piece, type, op);
  });
  return known ? done
               : fail_hccl(HCCL_E_NOT_SUPPORT, std::string(name) + ": no reduction of data type " +
                                                   std::to_string(type));
}

HcclResult initialize(uint32_t ranks, const HcclRootInfo* root, uint32_t rank, HcclComm* comm) {
  if (ranks > kMaxRanks || rank >= ranks)
    return fail_hccl(HCCL_E_PARA, "HCCL: rank " + std::to_string(rank) + " of " +
                                      std::to_string(ranks) + " (at most 64)");
  auto made = new Communicator(root->internal, rank, ranks);
  *comm = made;
  return made->connect();
}

}  // namespace
}  // namespace softnpu

using namespace softnpu;

extern "C" {

HcclResult HcclGetRootInfo(HcclRootInfo* root) {
  static std::atomic<int> next;
  snprintf(root->internal, sizeof(root->internal), "/softnpu_hccl_%d_%d", getpid(), next++);
  return HCCL_SUCCESS;
}

HcclResult HcclCommInitRootInfo(uint32_t ranks, const HcclRootInfo* root, uint32_t rank,
                                HcclComm* comm) {
  return initialize(ranks, root, rank, comm);
}

HcclResult HcclCommInitRootInfoConfig(uint32_t ranks, const HcclRootInfo* root, uint32_t rank,
                                      const HcclCommConfig*, HcclComm* comm) {
  return initialize(ranks, root, rank, comm);
}

HcclResult HcclCommDestroy(HcclComm comm) {
  delete static_cast<Communicator*>(comm);
  return HCCL_SUCCESS;
}

HcclResult HcclGetCommName(HcclComm comm, char* name) {
  snprintf(name, COMM_NAME_MAX_LENGTH, "%s", of(comm).name().c_str());
  return HCCL_SUCCESS;
}

HcclResult HcclGetCommAsyncError(HcclComm, HcclResult* error) {
  *error = HCCL_SUCCESS;
  return HCCL_SUCCESS;
}

// The one setting is whether results are the same from run to run: they are.
HcclResult HcclSetConfig(HcclConfig, HcclConfigValue) { return HCCL_SUCCESS; }

HcclResult HcclAllReduce(void* send, void* receive, uint64_t count, HcclDataType type,
                         HcclReduceOp op, HcclComm comm, aclrtStream) {
  return all_reduce("HcclAllReduce", send, receive, count, type, op, comm, kMaxRanks);
}

HcclResult HcclReduce(void* send, void* receive, uint64_t count, HcclDataType type, HcclReduceOp op,
                      uint32_t root, HcclComm comm, aclrtStream) {
  return all_reduce("HcclReduce", send, receive, count, type, op, comm, root);
}

HcclResult HcclBroadcast(void* buffer, uint64_t count, HcclDataType type, uint32_t root,
                         HcclComm comm, aclrtStream) {
  const size_t bytes = count * size_of(type);
  if (!check("HcclBroadcast", buffer, bytes, nullptr, 0)) return HCCL_E_PARA;
  const bool sends = of(comm).rank() == root;
  return of(comm).run({"HcclBroadcast", bytes, static_cast<uint32_t>(type), root},
                      sends ? buffer : nullptr, bytes,
                      [&](size_t offset, size_t piece, auto& slots) {
                        if (!sends) memcpy(static_cast<char*>(buffer) + offset, slots[root], piece);
                      });
}

HcclResult HcclAllGather(void* send, void* receive, uint64_t count, HcclDataType type,
                         HcclComm comm, aclrtStream) {
  const size_t bytes = count * size_of(type);
  if (!check("HcclAllGather", send, bytes, receive, bytes * of(comm).ranks())) return HCCL_E_PARA;
  return of(comm).run({"HcclAllGather", bytes, static_cast<uint32_t>(type), 0}, send, bytes,
                      [&](size_t offset, size_t piece, auto& slots) {
                        for (size_t r = 0; r < slots.size(); r++)
                          memcpy(static_cast<char*>(receive) + r * bytes + offset, slots[r], piece);
                      });
}

HcclResult HcclBarrier(HcclComm comm, aclrtStream) {
  return of(comm).run({"HcclBarrier", 0, 0, 0}, nullptr, 0, [](size_t, size_t, auto&) {});
}

HcclResult HcclReduceScatter(void* send, void* receive, uint64_t count, HcclDataType type,
                             HcclReduceOp op, HcclComm comm, aclrtStream) {
  const size_t bytes = count * size_of(type), ranks = of(comm).ranks(), rank = of(comm).rank();
  if (!check("HcclReduceScatter", send, bytes * ranks, receive, bytes)) return HCCL_E_PARA;
  bool known = true;
  const size_t from = rank * bytes, to = from + bytes;
  HcclResult done = of(comm).run(
      {"HcclReduceScatter", bytes, static_cast<uint32_t>(type), op}, send, bytes * ranks,
      [&](size_t offset, size_t piece, auto& slots) {
        // The part of this piece that is this rank's.
        const size_t first = std::max(from, offset), last = std::min(to, offset + piece);
        if (first >= last) return;
        std::vector<const char*> parts;
        for (const char* slot : slots) parts.push_back(slot + first - offset);
        known &= reduce(static_cast<char*>(receive) + first - from, parts, last - first, type, op);
      });
  return known ? done
               : fail_hccl(HCCL_E_NOT_SUPPORT,
                           "HcclReduceScatter: no reduction of data type " + std::to_string(type));
}
}
