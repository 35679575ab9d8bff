#include "support/golden.hpp"

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "support/golden_json.hpp"

namespace golden {

std::filesystem::path root() {
  const char* dir = std::getenv("AR_GOLDEN_DIR");
  return dir != nullptr && *dir != '\0' ? std::filesystem::path(AR_SOURCE_DIR) / dir : std::filesystem::path(AR_TEST_DATA) / "golden";
}

std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("golden file missing: " + path.string());
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

nlohmann::ordered_json parse_json(const std::string& text) { return nlohmann::ordered_json::parse(text); }
nlohmann::ordered_json read_json(const std::filesystem::path& path) { return parse_json(read_bytes(path)); }

std::vector<float> tensor::f32() const {
  std::vector<float> v(size());
  auto fill = [&](auto zero, auto convert) {
    using T = decltype(zero);
    const std::vector<T> raw = as<T>();
    for (std::size_t i = 0; i < v.size(); ++i) v[i] = convert(raw[i]);
  };
  auto plain = [](auto x) { return static_cast<float>(x); };
  if (dtype == "F32") fill(float{}, plain);
  else if (dtype == "F64") fill(double{}, plain);
  else if (dtype == "F16") fill(std::uint16_t{}, [](std::uint16_t h) { return ar::f32_from_f16(h); });
  else if (dtype == "BF16") fill(std::uint16_t{}, [](std::uint16_t h) { return ar::f32_from_bf16(h); });
  else if (dtype == "I8") fill(std::int8_t{}, plain);
  else if (dtype == "U8" || dtype == "BOOL") fill(std::uint8_t{}, plain);
  else if (dtype == "I16") fill(std::int16_t{}, plain);
  else if (dtype == "I32") fill(std::int32_t{}, plain);
  else if (dtype == "I64") fill(std::int64_t{}, plain);
  else throw std::runtime_error("golden tensor of type " + dtype);
  return v;
}

file::file(const std::filesystem::path& path) : bytes_(read_bytes(path)) {
  std::uint64_t n = 0;
  if (bytes_.size() < 8) throw std::runtime_error("not a safetensors file: " + path.string());
  std::memcpy(&n, bytes_.data(), 8);
  const auto header = parse_json(bytes_.substr(8, n));
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      for (const auto& [key, value] : entry.items()) metadata_[key] = value.get<std::string>();
      continue;
    }
    tensor t;
    t.dtype = entry["dtype"].get<std::string>();
    t.shape = entry["shape"].get<std::vector<std::size_t>>();
    const auto begin = entry["data_offsets"][0].get<std::size_t>(), end = entry["data_offsets"][1].get<std::size_t>();
    t.data = reinterpret_cast<const unsigned char*>(bytes_.data()) + 8 + n + begin;
    t.bytes = end - begin;
    tensors_[name] = t;
  }
}

const tensor& file::operator[](const std::string& name) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) throw std::runtime_error("golden tensor missing: " + name);
  read_.insert(name);
  return it->second;
}

std::vector<std::string> file::unread() const {
  std::vector<std::string> names;
  for (const auto& [name, t] : tensors_)
    if (read_.count(name) == 0) names.push_back(name);
  return names;
}

}  // namespace golden
