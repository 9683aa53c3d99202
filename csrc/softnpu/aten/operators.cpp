#include "operators.h"

#include <c10/util/Exception.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <unordered_map>
#include <vector>

namespace softnpu {
namespace {

const std::map<std::string, c10::ScalarType> kDtypes = {
    {"f16", c10::kHalf},      {"f32", c10::kFloat},        {"f64", c10::kDouble},
    {"bf16", c10::kBFloat16}, {"i8", c10::kChar},          {"i16", c10::kShort},
    {"i32", c10::kInt},       {"i64", c10::kLong},         {"u8", c10::kByte},
    {"bool", c10::kBool},     {"c64", c10::kComplexFloat}, {"c128", c10::kComplexDouble},
};

template <class Parts = std::vector<std::string>>
Parts split(const std::string& text, char separator) {
  Parts parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.insert(parts.end(), part);
  return parts;
}

Dtypes dtypes(const std::string& text, std::string* names) {
  Dtypes all;
  for (const auto& name : split(text, ' ')) {
    all.add(kDtypes.at(name));
    if (names) *names += (names->empty() ? "" : ", ") + dtype_name(kDtypes.at(name));
  }
  return all;
}

// MXD_SOFTNPU_DATA is the folder of the table; without it, every operator is unknown.
std::map<std::string, Operator> load() {
  std::map<std::string, Operator> rows;
  const char* folder = std::getenv("MXD_SOFTNPU_DATA");
  if (!folder) return rows;
  std::ifstream file(std::string(folder) + "/aten_on_cann.csv");
  bool head = true;
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    if (std::exchange(head, false)) continue;
    const auto cell = split(line, ',');
    TORCH_CHECK(cell.size() == 8, "aten_on_cann.csv: a row has 8 cells, this has ", cell.size(),
                ": ", line);
    Operator row{cell[1], cell[2], {}, dtypes(cell[4], nullptr), "", {}, {}};
    row.core = dtypes(cell[3], &row.core_names);
    row.judged = split<std::set<std::string>>(cell[5], ' ');
    row.rules = split<std::set<std::string>>(cell[6], ' ');
    for (const auto& name : split(cell[0], ' ')) rows[name] = row;
  }
  return rows;
}

const Operator* look_up(const c10::OperatorName& name) {
  static const auto* rows = new std::map<std::string, Operator>(load());
  std::string base = name.name.substr(name.name.find("::") + 2);
  std::vector<std::string> names = {short_name(name), base};
  if (base.back() == '_') names.push_back(base.substr(0, base.size() - 1));
  for (const auto& candidate : names)
    if (auto found = rows->find(candidate); found != rows->end()) return &found->second;
  return nullptr;
}

}  // namespace

std::string dtype_name(c10::ScalarType dtype) {
  return std::string(c10::getDtypeNames(dtype).first);
}

std::string short_name(const c10::OperatorName& name) {
  const auto base = name.name.substr(name.name.find("::") + 2);
  return name.overload_name.empty() ? base : base + "." + name.overload_name;
}

const Operator* find_operator(const c10::OperatorName& name) {
  thread_local std::unordered_map<c10::OperatorName, const Operator*> known;
  const auto [entry, is_new] = known.try_emplace(name, nullptr);
  if (is_new) entry->second = look_up(name);
  return entry->second;
}

}  // namespace softnpu
