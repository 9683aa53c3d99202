// By what this processor multiplies bfloat16 numbers: `mxd doctor` tells it.
#include <torch/library.h>

#include <string>

#include "amx.h"

namespace mxd::cpu {
namespace {

std::string bfloat16_products() {
  return amx::is_there() ? "AMX" : has_bfloat16() ? "AVX512-BF16" : "float32";
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(mxd, m) { m.def("bfloat16_products() -> str", bfloat16_products); }

}  // namespace mxd::cpu
