#include "export/export_checksums.hpp"

#include <openssl/evp.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include "io/file.hpp"

namespace auto_round::exporting {
namespace {

constexpr std::size_t hex_digits = 64;

class sha256 {
 public:
  sha256() : context_(EVP_MD_CTX_new()) { check(context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1); }
  void add(std::span<const std::byte> data) { check(EVP_DigestUpdate(context_.get(), data.data(), data.size()) == 1); }
  std::string finish() {
    std::array<unsigned char, hex_digits / 2> digest;
    check(EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr) == 1);
    std::string hex;
    hex.reserve(hex_digits);
    for (const unsigned char byte : digest) {
      hex += "0123456789abcdef"[byte >> 4];
      hex += "0123456789abcdef"[byte & 15u];
    }
    return hex;
  }

 private:
  static void check(bool done) {
    if (!done) std::abort();  // memory for its context is all that it asks for
  }
  struct release {
    void operator()(EVP_MD_CTX* c) const { EVP_MD_CTX_free(c); }
  };
  std::unique_ptr<EVP_MD_CTX, release> context_;
};

}  // namespace

std::string sha256_hex(std::span<const std::byte> data) {
  sha256 hash;
  hash.add(data);
  return hash.finish();
}

result<std::string> file_sha256_hex(const std::string& path) {
  sha256 hash;
  const auto read = io::read_pieces(path, [&](std::span<const std::byte> piece) {
    hash.add(piece);
    return result<void>();
  });
  if (!read) return forward_error(read);
  return hash.finish();
}

std::uint64_t checksums_size(const std::vector<std::string>& names) {
  std::uint64_t bytes = 0;
  for (const std::string& name : names) bytes += hex_digits + 2 + name.size() + 1;
  return bytes;
}

result<void> write_checksums(const std::string& directory, const std::vector<std::string>& names, const std::map<std::string, std::string>& known) {
  std::string text;
  for (const std::string& name : names) {
    const auto at = known.find(name);
    const result<std::string> sum = at != known.end() ? at->second : file_sha256_hex(directory + "/" + name);
    if (!sum) return forward_error(sum);
    text += *sum + "  " + name + "\n";
  }
  return io::write_text(directory + "/" + checksums_name, text);
}

result<std::vector<std::pair<std::string, std::string>>> read_checksums(const std::string& directory) {
  std::vector<std::pair<std::string, std::string>> all;
  const std::string path = directory + "/" + checksums_name;
  if (!std::filesystem::exists(path)) return all;
  const auto text = io::read_text(path);
  if (!text) return forward_error(text);
  for (std::size_t at = 0; at < text->size();) {
    const std::size_t end = std::min(text->find('\n', at), text->size());
    const std::string line = text->substr(at, end - at);
    at = end + 1;
    std::string name = line.size() > hex_digits + 2 ? line.substr(hex_digits + 2) : std::string();
    if (name.empty() || name.find('/') != std::string::npos) return fail(error_kind::verification, "a line of the checksum file is damaged", path);
    all.emplace_back(std::move(name), line.substr(0, hex_digits));
  }
  return all;
}

result<std::size_t> check_checksums(const std::string& directory) {
  const auto lines = read_checksums(directory);
  if (!lines) return forward_error(lines);
  for (const auto& [name, expected] : *lines) {
    const auto sum = file_sha256_hex(directory + "/" + name);
    if (!sum) return fail(error_kind::verification, "a file listed in SHA256SUMS cannot be read: " + sum.error().message, directory + "/" + name);
    if (*sum != expected) {
      return fail(error_kind::verification, "the file is not what was written: its SHA-256 differs from SHA256SUMS; copy or quantize it again",
                  directory + "/" + name);
    }
  }
  return lines->size();
}

}  // namespace auto_round::exporting
