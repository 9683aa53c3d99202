// CANN's built-in operators. The software NPU has its ops in ../aten; those that torch_npu
// runs past them, in its collectives, are Fill and PadV3 of a row. The others are refused by name,
// when they are executed.
#include <acl/acl_op.h>
#include <acl/acl_op_compiler.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "memory.h"
#include "runtime.h"

struct aclTensorDesc {
  aclDataType type;
  std::vector<int64_t> sizes;
};
struct aclopAttr {};
struct aclDataBuffer {
  void* data;
  size_t bytes;
};

namespace {

// Inputs: the output's dimensions, and the value as one element of the output.
aclError fill(const aclDataBuffer* const input[], const aclDataBuffer& out) {
  if (!softnpu_check(out.data, out.bytes, "Fill: the output")) return ACL_ERROR_INVALID_PARAM;
  const auto& value = *input[1];
  for (size_t at = 0; at + value.bytes <= out.bytes; at += value.bytes)
    memcpy(static_cast<char*>(out.data) + at, value.data, value.bytes);
  return ACL_SUCCESS;
}

// Inputs: a row (of sizes 1, ..., 1, n), how many elements to put before and after it in each
// dimension, and the value.
bool is_row(const aclTensorDesc& desc) {
  return std::all_of(desc.sizes.begin(), desc.sizes.end() - 1, [](int64_t n) { return n == 1; });
}

aclError pad_row(const aclDataBuffer* const input[], const aclDataBuffer& out) {
  const auto& row = *input[0];
  if (!softnpu_check(row.data, row.bytes, "PadV3: the input")) return ACL_ERROR_INVALID_PARAM;
  if (aclError error = fill(input + 1, out)) return error;
  const auto* paddings = static_cast<const int32_t*>(input[1]->data);
  const size_t before = paddings[input[1]->bytes / sizeof(int32_t) - 2];
  memcpy(static_cast<char*>(out.data) + before * input[2]->bytes, row.data, row.bytes);
  return ACL_SUCCESS;
}

}  // namespace

extern "C" {

aclTensorDesc* aclCreateTensorDesc(aclDataType type, int dimensions, const int64_t* sizes,
                                   aclFormat) {
  return new aclTensorDesc{type, {sizes, sizes + dimensions}};
}
void aclDestroyTensorDesc(const aclTensorDesc* desc) { delete desc; }
aclError aclSetTensorFormat(aclTensorDesc*, aclFormat) { return ACL_SUCCESS; }
aclError aclSetTensorShape(aclTensorDesc*, int, const int64_t*) { return ACL_SUCCESS; }
aclError aclSetTensorPlaceMent(aclTensorDesc*, aclMemType) { return ACL_SUCCESS; }
void aclSetTensorDescName(aclTensorDesc*, const char*) {}
aclDataType aclGetTensorDescType(const aclTensorDesc* desc) { return desc->type; }
aclFormat aclGetTensorDescFormat(const aclTensorDesc*) { return ACL_FORMAT_UNDEFINED; }
size_t aclGetTensorDescNumDims(const aclTensorDesc* desc) { return desc->sizes.size(); }
aclError aclGetTensorDescDimV2(const aclTensorDesc* desc, size_t index, int64_t* size) {
  *size = desc->sizes.at(index);
  return ACL_SUCCESS;
}

aclDataBuffer* aclCreateDataBuffer(void* data, size_t bytes) {
  return new aclDataBuffer{data, bytes};
}
aclError aclDestroyDataBuffer(const aclDataBuffer* buffer) {
  delete buffer;
  return ACL_SUCCESS;
}

aclopAttr* aclopCreateAttr() { return new aclopAttr; }
void aclopDestroyAttr(const aclopAttr* attr) { delete attr; }

aclError aclopCompileAndExecute(const char* type, int inputs,
                                const aclTensorDesc* const described[],
                                const aclDataBuffer* const input[], int,
                                const aclTensorDesc* const[], aclDataBuffer* const output[],
                                const aclopAttr*, aclopEngineType, aclopCompileType, const char*,
                                aclrtStream) {
  if (strcmp(type, "Fill") == 0 && inputs == 2) return fill(input, *output[0]);
  if (strcmp(type, "PadV3") == 0 && inputs == 3 && is_row(*described[0]))
    return pad_row(input, *output[0]);
  return softnpu::fail(ACL_ERROR_OP_NOT_FOUND,
                       std::string("CANN's operator ") + type + " is not part of the software NPU");
}
}
