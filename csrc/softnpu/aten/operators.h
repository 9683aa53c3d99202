// What CANN does with PyTorch's operators: the rows of mxd_mmplugin/softnpu/aten_on_cann.csv, whose
// head tells what the columns mean.
#pragma once
#include <ATen/core/operator_name.h>
#include <c10/core/ScalarType.h>

#include <set>
#include <string>

namespace softnpu {

// Dtypes as bits.
class Dtypes {
 public:
  void add(c10::ScalarType dtype) { bits_ |= bit(dtype); }
  bool has(c10::ScalarType dtype) const { return bits_ & bit(dtype); }

 private:
  static uint64_t bit(c10::ScalarType dtype) { return 1ull << static_cast<int>(dtype); }
  uint64_t bits_ = 0;
};

struct Operator {
  std::string aclnn, unit;
  Dtypes core, aicpu;
  std::string core_names;  // "float32, float16", for messages
  std::set<std::string> judged, rules;
};

// "float32".
std::string dtype_name(c10::ScalarType dtype);

// The row of an operator, by the first that there is of "add_.Tensor", "add_" and "add"; nullptr
// where there is none.
const Operator* find_operator(const c10::OperatorName& name);

// "add_.Tensor", of "aten::add_" and "Tensor".
std::string short_name(const c10::OperatorName& name);

}  // namespace softnpu
