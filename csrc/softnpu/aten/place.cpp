#include "place.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <pybind11/eval.h>
#include <pybind11/pybind11.h>
#include <torch/csrc/autograd/function.h>

#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <map>
#include <mutex>
#include <string_view>

namespace softnpu {
namespace {

namespace py = pybind11;

// What place.py of the folder MXD_SOFTNPU_DATA says of the Python frames of this thread.
Place python_place() {
  static py::object* function = nullptr;  // guarded by the GIL, and never destroyed
  const char* folder = std::getenv("MXD_SOFTNPU_DATA");
  if (!folder || !Py_IsInitialized()) return {};
  py::gil_scoped_acquire gil;
  try {
    if (!function) {
      py::dict names;
      py::eval_file(std::string(folder) + "/place.py", names);
      function = new py::object(names["place"]);
    }
    const auto [phase, module, line] =
        (*function)().cast<std::tuple<std::string, std::string, std::string>>();
    return {phase, module, line};
  } catch (const py::error_already_set& error) {
    fprintf(stderr, "softnpu: place.py: %s\n", error.what());
    return {};
  }
}

// The places of the forward pass, by the sequence number of the autograd node that was made there.
class ForwardPlaces {
 public:
  void add(uint64_t node, const Place& place) {
    std::lock_guard lock(mutex_);
    places_.try_emplace(node, place);  // what a node's own forward calls later makes none
    if (places_.size() > kMost)
      places_.erase(places_.begin(), std::next(places_.begin(), kMost / 2));
  }

  // Views make nodes too, but no launches: theirs is the place before them.
  Place find(uint64_t node) {
    std::lock_guard lock(mutex_);
    const auto after = places_.upper_bound(node);
    return after == places_.begin() ? Place{} : std::prev(after)->second;
  }

 private:
  static constexpr size_t kMost = 200000;
  std::mutex mutex_;
  std::map<uint64_t, Place> places_;
};

ForwardPlaces& forward_places() {
  static auto* places = new ForwardPlaces;
  return *places;
}

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

}  // namespace

Place current_place() {
  Place place = python_place();
  if (const auto node = torch::autograd::get_current_node()) {
    const uint64_t number = node->sequence_nr();
    Place made;  // the sum of gradients belongs to no place
    if (number != UINT64_MAX) made = forward_places().find(number);
    return {"backward", made.module, place.line.empty() ? made.line : place.line};
  }
  return place;
}

void note_forward_place(const Place& place, uint64_t node) {
  if (!torch::autograd::get_current_node()) forward_places().add(node, place);
}

std::string native_caller() {
  void* frames[64];
  const int count = backtrace(frames, std::size(frames));
  for (int i = 0; i < count; i++) {
    Dl_info found;
    if (!dladdr(frames[i], &found) || !found.dli_fname) continue;
    const std::string_view library = found.dli_fname;
    if (contains(library, "/libmxd_aten") || contains(library, "/torch/lib/") ||
        contains(library, "/torch_npu/"))
      continue;
    if (!contains(library, "/libmxd_") && !contains(library, "/mxd_mmplugin/_C") &&
        !contains(library, "/mmcv/_ext"))
      return "";
    char offset[32];
    snprintf(offset, sizeof(offset), "+%#zx",
             static_cast<char*>(frames[i]) - static_cast<char*>(found.dli_fbase) - 1);
    return std::string(library) + offset;
  }
  return "";
}

}  // namespace softnpu
