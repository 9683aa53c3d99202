// Python's lock is given back while one waits for the device.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>

namespace softnpu {

// mmcv's functions are called with the lock held. The thread of torch_npu's queue, for which they
// wait, takes it to ask which line of Python launched a kernel.
class WithoutGil {
 public:
  WithoutGil() {
    if (Py_IsInitialized() && PyGILState_Check()) release_.emplace();
  }

 private:
  std::optional<pybind11::gil_scoped_release> release_;
};

}  // namespace softnpu
