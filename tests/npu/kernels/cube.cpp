// Matrix products on the cube, right and wrong.

#include "kernel_operator.h"
#include "product.h"

namespace {

using namespace AscendC;

// out[m, n] = a[m, k] b[k, n], or with b given transposed as [n, k]; sizes are padded to whole
// fractals in L1.
template <typename T, bool transposed_b>
__aicore__ inline void Product(GM_ADDR a_address, GM_ADDR b_address, GM_ADDR out_address,
                               const ProductSize& size) {
  SetHF32Mode(false);
  constexpr uint32_t kC0 = 32 / sizeof(T);
  const uint32_t m = size.m, n = size.n, k = size.k;
  const uint32_t rows = (m + 15) / 16 * 16, columns = (n + 15) / 16 * 16,
                 depth = (k + 15) / 16 * 16;
  TPipe pipe;
  TBuf<TPosition::A1> a1;
  TBuf<TPosition::B1> b1;
  TBuf<TPosition::A2> a2;
  TBuf<TPosition::B2> b2;
  TBuf<TPosition::CO1> co1;
  pipe.InitBuffer(a1, rows * depth * sizeof(T));
  pipe.InitBuffer(b1, depth * columns * sizeof(T));
  pipe.InitBuffer(a2, rows * depth * sizeof(T));
  pipe.InitBuffer(b2, depth * columns * sizeof(T));
  pipe.InitBuffer(co1, rows * columns * sizeof(float));
  GlobalTensor<T> a, b;
  GlobalTensor<float> out;
  a.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(a_address));
  b.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(b_address));
  out.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(out_address));
  LocalTensor<T> a1_tensor = a1.Get<T>(), b1_tensor = b1.Get<T>(), a2_tensor = a2.Get<T>(),
                 b2_tensor = b2.Get<T>();
  LocalTensor<float> c = co1.Get<float>();

  DataCopy(a1_tensor, a, Nd2NzParams(1, m, k, 0, k, rows, 1, 0));
  if constexpr (transposed_b) {
    DataCopy(b1_tensor, b, Nd2NzParams(1, n, k, 0, k, columns, 1, 0));
  } else if constexpr (sizeof(T) == 2) {
    DataCopy(b1_tensor, b, Nd2NzParams(1, k, n, 0, n, depth, 1, 0));
  } else {
    // 16 rows at a time, so that the fractals of a square stand side by side, as
    // LoadDataWithTranspose wants them.
    for (uint32_t row = 0; row < k; row += 16) {
      const uint32_t left = k - row < 16 ? k - row : 16;
      DataCopy(b1_tensor[row * columns], b[row * n], Nd2NzParams(1, left, n, 0, n, 16, 1, 0));
    }
  }
  SetFlag<HardEvent::MTE2_MTE1>(EVENT_ID0);
  WaitFlag<HardEvent::MTE2_MTE1>(EVENT_ID0);
  const uint32_t k_fractals = (k + kC0 - 1) / kC0;
  for (uint32_t i = 0; i < rows / 16; ++i) {
    LoadData(a2_tensor[i * k_fractals * 16 * kC0], a1_tensor[i * 16 * kC0],
             LoadData2DParams(0, k_fractals, rows / 16, 0, 0, false, 0));
  }
  for (uint32_t i = 0; i < (transposed_b || sizeof(T) == 2 ? k_fractals : depth / 16); ++i) {
    if constexpr (transposed_b) {
      LoadData(b2_tensor[i * columns * kC0], b1_tensor[i * columns * kC0],
               LoadData2DParams(0, columns / 16, 1, 0, 0, false, 0));
    } else if constexpr (sizeof(T) == 2) {
      LoadData(b2_tensor[i * columns * kC0], b1_tensor[i * 16 * kC0],
               LoadData2DParams(0, columns / 16, depth / 16, 0, 0, true, 0));
    } else {
      LoadData2dTransposeParams p;
      p.repeatTimes = columns / 16;
      p.srcStride = 1;
      p.dstFracGap = columns / 16 - 1;
      LoadDataWithTranspose(b2_tensor[i * columns * 16], b1_tensor[i * columns * 16], p);
    }
  }
  SetFlag<HardEvent::MTE1_M>(EVENT_ID0);
  WaitFlag<HardEvent::MTE1_M>(EVENT_ID0);
  MmadParams mmad;
  mmad.m = m;
  mmad.n = n;
  mmad.k = k;
  Mmad(c, a2_tensor, b2_tensor, mmad);
  SetFlag<HardEvent::M_FIX>(EVENT_ID0);
  WaitFlag<HardEvent::M_FIX>(EVENT_ID0);
  FixpipeParamsV220 fixpipe;
  fixpipe.nSize = n;
  fixpipe.mSize = m;
  fixpipe.srcStride = rows;
  fixpipe.dstStride = n;
  Fixpipe(out, c, fixpipe);
}

// x as 64 x 16 in L0A.
struct Twice {
  TPipe pipe;
  TBuf<TPosition::A1> a1;
  TBuf<TPosition::A2> a2;
  TBuf<TPosition::B2> b2;
  TBuf<TPosition::CO1> co1;
  GlobalTensor<float> x, y;
  LocalTensor<float> left, right, c;

  __aicore__ inline Twice(GM_ADDR x_address, GM_ADDR y_address) {
    pipe.InitBuffer(a1, 64 * 16 * sizeof(float));
    pipe.InitBuffer(a2, 64 * 16 * sizeof(float));
    pipe.InitBuffer(b2, 16 * 16 * sizeof(float));
    pipe.InitBuffer(co1, 64 * 16 * sizeof(float));
    x.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(x_address));
    y.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(y_address));
    left = a2.Get<float>();
    right = b2.Get<float>();
    c = co1.Get<float>();
  }
  __aicore__ inline void Load() {
    SetHF32Mode(false);
    DataCopy(a1.Get<float>(), x, Nd2NzParams(1, 64, 16, 0, 16, 64, 1, 0));
    SetFlag<HardEvent::MTE2_MTE1>(EVENT_ID0);
    WaitFlag<HardEvent::MTE2_MTE1>(EVENT_ID0);
    for (int32_t i = 0; i < 4; ++i) {
      LoadData(left[i * 256], a1.Get<float>()[i * 128], LoadData2DParams(0, 2, 4, 0, 0, false, 0));
    }
  }
};

}  // namespace

extern "C" __global__ __aicore__ void cube_product_half(GM_ADDR a, GM_ADDR b, GM_ADDR out,
                                                        ProductSize size) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIC_ONLY);
  Product<half, false>(a, b, out, size);
}

extern "C" __global__ __aicore__ void cube_product_half_transposed(GM_ADDR a, GM_ADDR b,
                                                                   GM_ADDR out, ProductSize size) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIC_ONLY);
  Product<half, true>(a, b, out, size);
}

extern "C" __global__ __aicore__ void cube_product_float(GM_ADDR a, GM_ADDR b, GM_ADDR out,
                                                         ProductSize size) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIC_ONLY);
  Product<float, false>(a, b, out, size);
}

extern "C" __global__ __aicore__ void cube_product_float_transposed(GM_ADDR a, GM_ADDR b,
                                                                    GM_ADDR out, ProductSize size) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIC_ONLY);
  Product<float, true>(a, b, out, size);
}

extern "C" __global__ __aicore__ void cube_flag_before_mmad_missing(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIC_ONLY);
  Twice op(x, y);
  op.Load();
  MmadParams mmad;
  mmad.m = 64;
  mmad.n = mmad.k = 16;
  // error: race: reads bytes .* of L0A, that LoadData of pipe MTE1 .*HardEvent::MTE1_M
  Mmad(op.c, op.left, op.right, mmad);
}

extern "C" __global__ __aicore__ void cube_barrier_between_small_products_missing(GM_ADDR x,
                                                                                  GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIC_ONLY);
  Twice op(x, y);
  op.Load();
  SetFlag<HardEvent::MTE1_M>(EVENT_ID0);
  WaitFlag<HardEvent::MTE1_M>(EVENT_ID0);
  MmadParams mmad;
  mmad.m = 64;
  mmad.n = mmad.k = 16;
  Mmad(op.c, op.left, op.right, mmad);
  mmad.cmatrixInitVal = false;
  // error: race: reads bytes .* of L0C, that Mmad .*PipeBarrier<PIPE_M> is missing
  Mmad(op.c, op.left, op.right, mmad);
}

extern "C" __global__ __aicore__ void cube_more_than_l0c(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIC_ONLY);
  Twice op(x, y);
  TBuf<TPosition::CO1> more;
  // error: TPipe hands out 135168 bytes of L0C, which has 131072
  op.pipe.InitBuffer(more, 128 * 1024);
}

extern "C" __global__ __aicore__ void cube_product_larger_than_its_operand(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIC_ONLY);
  Twice op(x, y);
  op.Load();
  SetFlag<HardEvent::MTE1_M>(EVENT_ID0);
  WaitFlag<HardEvent::MTE1_M>(EVENT_ID0);
  MmadParams mmad;
  mmad.m = 64;
  mmad.n = 32;
  mmad.k = 16;
  // error: the right matrix is out of its buffer
  Mmad(op.c, op.left, op.right, mmad);
}

extern "C" __global__ __aicore__ void cube_fixpipe_of_a_wrong_type(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIC_ONLY);
  Twice op(x, y);
  GlobalTensor<half> out;
  out.SetGlobalBuffer(reinterpret_cast<__gm__ half*>(y));
  FixpipeParamsV220 fixpipe(16, 64, 64, 16, false);
  // error: quantPre is 0, from float to half takes 1
  Fixpipe(out, op.c, fixpipe);
}

extern "C" __global__ __aicore__ void cube_load_off_a_fractal(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIC_ONLY);
  Twice op(x, y);
  // error: the destination starts at byte 32 of L0A, which must be a multiple of 512
  LoadData(op.left[8], op.a1.Get<float>(), LoadData2DParams(0, 1, 1, 0, 0, false, 0));
}

extern "C" __global__ __aicore__ void cube_on_a_vector_core(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Twice op(x, y);
  // error: DataCopy .nd2nz. of L1 on a vector core: put it under ASCEND_IS_AIC
  DataCopy(op.a1.Get<float>(), op.x, Nd2NzParams(1, 64, 16, 0, 16, 64, 1, 0));
}

extern "C" __global__ __aicore__ void cube_fp32_mode_of_the_last_kernel(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIC_ONLY);
  Twice op(x, y);
  // error: SetHF32Mode.false. is missing
  Mmad(op.c, op.left, op.right, MmadParams(64, 16, 16, 0, false, true));
}
