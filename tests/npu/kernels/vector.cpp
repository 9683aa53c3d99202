// Each kernel runs one instruction, given by its case, on buffers of 16 KiB: source 0, source 1,
// destination.
#include "vector.h"

#include "kernel_operator.h"

namespace {

using namespace AscendC;

constexpr int32_t kBytes = 16384;

template <typename T>
__aicore__ inline T Scalar(const VectorCase& c) {
  return static_cast<T>(c.scalar);
}

// The three buffers, filled; `out` goes back to global memory at the end.
struct Buffers {
  TPipe pipe;
  TBuf<TPosition::VECIN> a, b;
  TBuf<TPosition::VECOUT> out;
  TBuf<TPosition::VECCALC> work;
  GlobalTensor<int32_t> memory;

  __aicore__ inline Buffers(GM_ADDR a_address, GM_ADDR b_address, GM_ADDR out_address) {
    pipe.InitBuffer(a, kBytes);
    pipe.InitBuffer(b, kBytes);
    pipe.InitBuffer(out, kBytes);
    pipe.InitBuffer(work, kBytes);
    memory.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(a_address));
    DataCopy(a.Get<int32_t>(), memory, kBytes / 4);
    memory.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(b_address));
    DataCopy(b.Get<int32_t>(), memory, kBytes / 4);
    memory.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(out_address));
    DataCopy(out.Get<int32_t>(), memory, kBytes / 4);
    PipeBarrier<PIPE_ALL>();
  }
  __aicore__ inline void Store() {
    PipeBarrier<PIPE_ALL>();
    DataCopy(memory, out.Get<int32_t>(), kBytes / 4);
  }
};

#define BINARY(NAME)                                                                   \
  {                                                                                    \
    BinaryRepeatParams p(c.block[0], c.block[1], c.block[2], c.stride[0], c.stride[1], \
                         c.stride[2]);                                                 \
    if (c.form == 0) {                                                                 \
      NAME(d, a, b, c.count);                                                          \
    } else if (c.form == 1) {                                                          \
      NAME(d, a, b, static_cast<uint64_t>(c.count), c.repeat, p);                      \
    } else {                                                                           \
      uint64_t mask[2] = {c.mask[0], c.mask[1]};                                       \
      NAME(d, a, b, mask, c.repeat, p);                                                \
    }                                                                                  \
    break;                                                                             \
  }
#define UNARY(NAME)                                                        \
  {                                                                        \
    UnaryRepeatParams p(c.block[0], c.block[1], c.stride[0], c.stride[1]); \
    if (c.form == 0) {                                                     \
      NAME(d, a, c.count);                                                 \
    } else if (c.form == 1) {                                              \
      NAME(d, a, static_cast<uint64_t>(c.count), c.repeat, p);             \
    } else {                                                               \
      uint64_t mask[2] = {c.mask[0], c.mask[1]};                           \
      NAME(d, a, mask, c.repeat, p);                                       \
    }                                                                      \
    break;                                                                 \
  }
#define SCALAR(NAME)                                                       \
  {                                                                        \
    const T s = Scalar<T>(c);                                              \
    UnaryRepeatParams p(c.block[0], c.block[1], c.stride[0], c.stride[1]); \
    if (c.form == 0) {                                                     \
      NAME(d, a, s, c.count);                                              \
    } else if (c.form == 1) {                                              \
      NAME(d, a, s, static_cast<uint64_t>(c.count), c.repeat, p);          \
    } else {                                                               \
      uint64_t mask[2] = {c.mask[0], c.mask[1]};                           \
      NAME(d, a, s, mask, c.repeat, p);                                    \
    }                                                                      \
    break;                                                                 \
  }

template <typename T>
__aicore__ inline void Arithmetic(Buffers& buffers, const VectorCase& c) {
  LocalTensor<T> d = buffers.out.Get<T>(), a = buffers.a.Get<T>(), b = buffers.b.Get<T>();
  switch (c.instruction) {
    case 0:
      BINARY(Add)
    case 1:
      BINARY(Sub)
    case 2:
      BINARY(Mul)
    case 3:
      BINARY(Max)
    case 4:
      BINARY(Min)
    case 5:
      SCALAR(Adds)
    case 6:
      SCALAR(Muls)
    case 7:
      SCALAR(Maxs)
    case 8:
      SCALAR(Mins)
    default: {
      const T s = Scalar<T>(c);
      if (c.form == 0) {
        Duplicate(d, s, c.count);
      } else if (c.form == 1) {
        Duplicate(d, s, static_cast<uint64_t>(c.count), c.repeat, c.block[0], c.stride[0]);
      } else {
        uint64_t mask[2] = {c.mask[0], c.mask[1]};
        Duplicate(d, s, mask, c.repeat, c.block[0], c.stride[0]);
      }
    }
  }
}

template <typename T>
__aicore__ inline void Floating(Buffers& buffers, const VectorCase& c) {
  LocalTensor<T> d = buffers.out.Get<T>(), a = buffers.a.Get<T>(), b = buffers.b.Get<T>();
  switch (c.instruction) {
    case 0:
      BINARY(Div)
    case 1:
      BINARY(MulAddDst)
    case 2:
      UNARY(Abs)
    case 3:
      UNARY(Exp)
    case 4:
      UNARY(Ln)
    case 5:
      UNARY(Sqrt)
    case 6:
      UNARY(Rsqrt)
    case 7:
      UNARY(Reciprocal)
    case 8:
      UNARY(Relu)
    default:
      SCALAR(Axpy)
  }
}

template <typename D, typename S>
__aicore__ inline void Casted(Buffers& buffers, const VectorCase& c) {
  LocalTensor<D> d = buffers.out.Get<D>();
  LocalTensor<S> a = buffers.a.Get<S>();
  const RoundMode mode = static_cast<RoundMode>(c.extra);
  UnaryRepeatParams p(c.block[0], c.block[1], c.stride[0], c.stride[1]);
  if (c.form == 0) {
    Cast(d, a, mode, c.count);
  } else if (c.form == 1) {
    Cast(d, a, mode, static_cast<uint64_t>(c.count), c.repeat, p);
  } else {
    uint64_t mask[2] = {c.mask[0], c.mask[1]};
    Cast(d, a, mode, mask, c.repeat, p);
  }
}

template <typename T>
__aicore__ inline void Reduced(Buffers& buffers, const VectorCase& c) {
  LocalTensor<T> d = buffers.out.Get<T>(), a = buffers.a.Get<T>(), w = buffers.work.Get<T>();
  uint64_t mask[2] = {c.mask[0], c.mask[1]};
  switch (c.instruction) {
    case 0:
      return WholeReduceSum(d, a, mask, c.repeat, c.stride[0], c.block[1], c.stride[1]);
    case 1:
      return WholeReduceMax(d, a, mask, c.repeat, c.stride[0], c.block[1], c.stride[1]);
    case 2:
      return WholeReduceMin(d, a, mask, c.repeat, c.stride[0], c.block[1], c.stride[1],
                            ReduceOrder::ORDER_ONLY_VALUE);
    case 3:
      return BlockReduceSum(d, a, c.repeat, mask, c.stride[0], c.block[1], c.stride[1]);
    case 4:
      return BlockReduceMax(d, a, c.repeat, mask, c.stride[0], c.block[1], c.stride[1]);
    case 5:
      return PairReduceSum(d, a, c.repeat, mask, c.stride[0], c.block[1], c.stride[1]);
    case 6:
      return ReduceSum(d, a, w, c.count);
    case 7:
      return ReduceMax(d, a, w, c.count, true);
    default:
      return ReduceMin(d, a, w, c.count, false);
  }
}

template <typename T>
__aicore__ inline void Compared(Buffers& buffers, const VectorCase& c) {
  LocalTensor<uint8_t> bits = buffers.work.Get<uint8_t>();
  LocalTensor<T> d = buffers.out.Get<T>(), a = buffers.a.Get<T>(), b = buffers.b.Get<T>();
  const CMPMODE mode = static_cast<CMPMODE>(c.extra);
  if (c.instruction == 0) {
    Compare(bits, a, b, mode, c.count);
    PipeBarrier<PIPE_V>();
    Select(d, bits, a, b, SELMODE::VSEL_TENSOR_TENSOR_MODE, c.count);
  } else if (c.instruction == 1) {
    CompareScalar(bits, a, Scalar<T>(c), mode, c.count);
    PipeBarrier<PIPE_V>();
    Select(d, bits, a, Scalar<T>(c), SELMODE::VSEL_TENSOR_SCALAR_MODE, c.count);
  } else {
    // The bits themselves, one for each lane.
    Compare(buffers.out.Get<uint8_t>(), a, b, mode, c.count);
  }
}

template <typename T>
__aicore__ inline void Moved(Buffers& buffers, const VectorCase& c) {
  LocalTensor<T> d = buffers.out.Get<T>(), a = buffers.a.Get<T>();
  LocalTensor<uint32_t> b = buffers.b.Get<uint32_t>();
  uint64_t kept = 0;
  switch (c.instruction) {
    case 0:
      return Gather(d, a, b, c.extra, c.count);
    case 1:
      return Gatherb(d.template ReinterpretCast<uint32_t>(), a.template ReinterpretCast<uint32_t>(),
                     b, c.repeat, GatherRepeatParams(c.block[0], c.stride[0]));
    case 2:
      return Brcb(d, a, c.repeat, BrcbRepeatParams(c.block[0], c.stride[0]));
    case 3:
      return Copy(d, a, static_cast<uint64_t>(c.count), c.repeat,
                  CopyRepeatParams(c.block[0], c.block[1], c.stride[0], c.stride[1]));
    case 4:
      return GatherMask(d, a, static_cast<uint8_t>(c.extra), false, 0,
                        GatherMaskParams(1, c.repeat, 8, 0), kept);
    case 5:
      if constexpr (sizeof(T) == 4) {
        return GatherMask(d, a, b, true, c.count, GatherMaskParams(1, c.repeat, 8, 1), kept);
      }
    default:
      return;
  }
}

}  // namespace

extern "C" __global__ __aicore__ void vector_arithmetic(GM_ADDR a, GM_ADDR b, GM_ADDR out,
                                                        VectorCase c) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Buffers buffers(a, b, out);
  if (c.type == 0) Arithmetic<float>(buffers, c);
  if (c.type == 1) Arithmetic<half>(buffers, c);
  if (c.type == 2) Arithmetic<int32_t>(buffers, c);
  if (c.type == 3) Arithmetic<int16_t>(buffers, c);
  buffers.Store();
}

extern "C" __global__ __aicore__ void vector_floating(GM_ADDR a, GM_ADDR b, GM_ADDR out,
                                                      VectorCase c) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Buffers buffers(a, b, out);
  if (c.type == 0) Floating<float>(buffers, c);
  if (c.type == 1) Floating<half>(buffers, c);
  buffers.Store();
}

extern "C" __global__ __aicore__ void vector_logic(GM_ADDR a, GM_ADDR b, GM_ADDR out,
                                                   VectorCase c) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Buffers buffers(a, b, out);
  LocalTensor<int16_t> d = buffers.out.Get<int16_t>(), s = buffers.a.Get<int16_t>(),
                       t = buffers.b.Get<int16_t>();
  LocalTensor<int32_t> wide_d = buffers.out.Get<int32_t>(), wide_s = buffers.a.Get<int32_t>();
  if (c.instruction == 0) And(d, s, t, c.count);
  if (c.instruction == 1) Or(d, s, t, c.count);
  if (c.instruction == 2) Not(d, s, c.count);
  if (c.instruction == 3) ShiftLeft(wide_d, wide_s, static_cast<int32_t>(c.extra), c.count);
  if (c.instruction == 4) ShiftRight(wide_d, wide_s, static_cast<int32_t>(c.extra), c.count);
  buffers.Store();
}

extern "C" __global__ __aicore__ void vector_cast(GM_ADDR a, GM_ADDR b, GM_ADDR out, VectorCase c) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Buffers buffers(a, b, out);
  if (c.instruction == 0) Casted<float, half>(buffers, c);
  if (c.instruction == 1) Casted<half, float>(buffers, c);
  if (c.instruction == 2) Casted<int32_t, float>(buffers, c);
  if (c.instruction == 3) Casted<float, int32_t>(buffers, c);
  if (c.instruction == 4) Casted<bfloat16_t, float>(buffers, c);
  if (c.instruction == 5) Casted<float, bfloat16_t>(buffers, c);
  if (c.instruction == 6) Casted<int16_t, float>(buffers, c);
  if (c.instruction == 7) Casted<float, float>(buffers, c);
  if (c.instruction == 8) Casted<int64_t, int32_t>(buffers, c);
  buffers.Store();
}

extern "C" __global__ __aicore__ void vector_reduce(GM_ADDR a, GM_ADDR b, GM_ADDR out,
                                                    VectorCase c) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Buffers buffers(a, b, out);
  if (c.type == 0) Reduced<float>(buffers, c);
  if (c.type == 1) Reduced<half>(buffers, c);
  buffers.Store();
}

extern "C" __global__ __aicore__ void vector_compare(GM_ADDR a, GM_ADDR b, GM_ADDR out,
                                                     VectorCase c) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Buffers buffers(a, b, out);
  if (c.type == 0) Compared<float>(buffers, c);
  if (c.type == 1) Compared<half>(buffers, c);
  buffers.Store();
}

extern "C" __global__ __aicore__ void vector_move(GM_ADDR a, GM_ADDR b, GM_ADDR out, VectorCase c) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Buffers buffers(a, b, out);
  if (c.type == 0) Moved<float>(buffers, c);
  if (c.type == 1) Moved<half>(buffers, c);
  buffers.Store();
}

// Sorts 128 scores: Sort32 of four lists, then MrgSort of them.
extern "C" __global__ __aicore__ void vector_sort(GM_ADDR a, GM_ADDR b, GM_ADDR out) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Buffers buffers(a, b, out);
  LocalTensor<float> scores = buffers.a.Get<float>(), lists = buffers.work.Get<float>();
  Sort32(lists, scores, buffers.b.Get<uint32_t>(), 4);
  PipeBarrier<PIPE_V>();
  const uint16_t lengths[4] = {32, 32, 32, 32};
  MrgSortSrcList<float> sources(lists, lists[64], lists[128], lists[192]);
  MrgSort(buffers.out.Get<float>(), sources, MrgSort4Info(lengths, false, 15, 1));
  buffers.Store();
}

// Transposes: 16 x 16 halves by Transpose, 16 x 8 floats by TransDataTo5HD.
extern "C" __global__ __aicore__ void vector_transpose(GM_ADDR a, GM_ADDR b, GM_ADDR out,
                                                       VectorCase c) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Buffers buffers(a, b, out);
  if (c.type == 1) {
    Transpose(buffers.out.Get<half>(), buffers.a.Get<half>());
  } else {
    LocalTensor<float> d[16], s[16];
    for (int i = 0; i < 16; ++i) {
      d[i] = buffers.out.Get<float>()[i * 8];
      s[i] = buffers.a.Get<float>()[i * 8];
    }
    TransDataTo5HD<float>(d, s, TransDataTo5HDParams(false, false, 1, 0, 0));
  }
  buffers.Store();
}
