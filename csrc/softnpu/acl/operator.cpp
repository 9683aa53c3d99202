// CANN's built-in operators, which the software NPU has none of (its ops are in ../aten). What
// describes an operator is accepted and dropped, so that its execution can be refused by name.
#include <acl/acl_op.h>
#include <acl/acl_op_compiler.h>

#include "runtime.h"

// Only their addresses are used.
struct aclTensorDesc {};
struct aclDataBuffer {};
struct aclopAttr {};

extern "C" {

aclTensorDesc* aclCreateTensorDesc(aclDataType, int, const int64_t*, aclFormat) {
  return new aclTensorDesc;
}
void aclDestroyTensorDesc(const aclTensorDesc* desc) { delete desc; }
aclError aclSetTensorFormat(aclTensorDesc*, aclFormat) { return ACL_SUCCESS; }
aclError aclSetTensorShape(aclTensorDesc*, int, const int64_t*) { return ACL_SUCCESS; }
aclError aclSetTensorPlaceMent(aclTensorDesc*, aclMemType) { return ACL_SUCCESS; }
void aclSetTensorDescName(aclTensorDesc*, const char*) {}
aclDataType aclGetTensorDescType(const aclTensorDesc*) { return ACL_DT_UNDEFINED; }
aclFormat aclGetTensorDescFormat(const aclTensorDesc*) { return ACL_FORMAT_UNDEFINED; }
size_t aclGetTensorDescNumDims(const aclTensorDesc*) { return 0; }

aclDataBuffer* aclCreateDataBuffer(void*, size_t) { return new aclDataBuffer; }
aclError aclDestroyDataBuffer(const aclDataBuffer* buffer) {
  delete buffer;
  return ACL_SUCCESS;
}

aclopAttr* aclopCreateAttr() { return new aclopAttr; }
void aclopDestroyAttr(const aclopAttr* attr) { delete attr; }

aclError aclopCompileAndExecute(const char* type, int, const aclTensorDesc* const[],
                                const aclDataBuffer* const[], int, const aclTensorDesc* const[],
                                aclDataBuffer* const[], const aclopAttr*, aclopEngineType,
                                aclopCompileType, const char*, aclrtStream) {
  return softnpu::fail(ACL_ERROR_OP_NOT_FOUND,
                       std::string("CANN's operator ") + type + " is not part of the software NPU");
}
}
