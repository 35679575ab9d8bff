#include "export/export_checksums.hpp"

#include <openssl/evp.h>

#include <array>
#include <cstdlib>
#include <filesystem>

#include "io/file.hpp"

namespace auto_round::exporting {
namespace {

constexpr std::size_t hex_digits = 64;

}  // namespace

std::string sha256_hex(std::span<const std::byte> data) {
  std::array<unsigned char, hex_digits / 2> digest;
  if (EVP_Digest(data.data(), data.size(), digest.data(), nullptr, EVP_sha256(), nullptr) != 1) std::abort();  // memory for its context is all that it asks for
  std::string hex;
  hex.reserve(hex_digits);
  for (const unsigned char byte : digest) {
    hex += "0123456789abcdef"[byte >> 4];
    hex += "0123456789abcdef"[byte & 15u];
  }
  return hex;
}

std::uint64_t checksums_size(const std::vector<std::string>& names) {
  std::uint64_t bytes = 0;
  for (const std::string& name : names) bytes += hex_digits + 2 + name.size() + 1;
  return bytes;
}

result<void> write_checksums(const std::string& directory, const std::vector<std::string>& names, const std::map<std::string, std::string>& known) {
  std::string text;
  for (const std::string& name : names) {
    if (const auto at = known.find(name); at != known.end()) {
      text += at->second + "  " + name + "\n";
      continue;
    }
    auto file = io::mapped_file::open(directory + "/" + name);
    if (!file) return forward_error(file);
    text += sha256_hex(file->bytes()) + "  " + name + "\n";
  }
  return io::write_text(directory + "/" + checksums_name, text);
}

result<std::size_t> check_checksums(const std::string& directory) {
  const std::string path = directory + "/" + checksums_name;
  if (!std::filesystem::exists(path)) return std::size_t{0};
  auto text = io::read_text(path);
  if (!text) return forward_error(text);
  std::size_t files = 0;
  for (std::size_t at = 0; at < text->size();) {
    const std::size_t end = std::min(text->find('\n', at), text->size());
    const std::string line = text->substr(at, end - at);
    at = end + 1;
    const std::string name = line.size() > hex_digits + 2 ? line.substr(hex_digits + 2) : std::string();
    if (name.empty() || name.find('/') != std::string::npos) return fail(error_kind::verification, "a line of the checksum file is damaged", path);
    auto file = io::mapped_file::open(directory + "/" + name);
    if (!file) return fail(error_kind::verification, "a file listed in SHA256SUMS cannot be read: " + file.error().message, directory + "/" + name);
    if (sha256_hex(file->bytes()) != line.substr(0, hex_digits)) {
      return fail(error_kind::verification, "the file is not what was written: its SHA-256 differs from SHA256SUMS; copy or quantize it again",
                  directory + "/" + name);
    }
    ++files;
  }
  return files;
}

}  // namespace auto_round::exporting
