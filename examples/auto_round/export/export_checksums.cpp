// SHA-256 (FIPS 180-4) in plain C++, and the sha256sum file format.
#include "export/export_checksums.hpp"

#include <array>
#include <bit>
#include <cstring>
#include <filesystem>

#include "io/file.hpp"

namespace auto_round::exporting {
namespace {

constexpr std::array<std::uint32_t, 64> round_constants = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74,
    0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d,
    0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e,
    0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5,
    0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

using state = std::array<std::uint32_t, 8>;

void compress(state& s, const std::byte* block) {
  std::array<std::uint32_t, 64> w;
  for (std::size_t i = 0; i < 16; ++i) {
    w[i] = 0;
    for (std::size_t b = 0; b < 4; ++b) w[i] = w[i] << 8 | std::to_integer<std::uint32_t>(block[4 * i + b]);
  }
  for (std::size_t i = 16; i < 64; ++i) {
    const std::uint32_t a = std::rotr(w[i - 15], 7) ^ std::rotr(w[i - 15], 18) ^ (w[i - 15] >> 3);
    const std::uint32_t b = std::rotr(w[i - 2], 17) ^ std::rotr(w[i - 2], 19) ^ (w[i - 2] >> 10);
    w[i] = w[i - 16] + a + w[i - 7] + b;
  }
  auto [a, b, c, d, e, f, g, h] = s;
  for (std::size_t i = 0; i < 64; ++i) {
    const std::uint32_t t1 = h + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) + ((e & f) ^ (~e & g)) + round_constants[i] + w[i];
    const std::uint32_t t2 = (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    h = g;
    g = f;
    f = e;
    e = d + t1;
    d = c;
    c = b;
    b = a;
    a = t1 + t2;
  }
  const state add = {a, b, c, d, e, f, g, h};
  for (std::size_t i = 0; i < 8; ++i) s[i] += add[i];
}

constexpr std::size_t hex_digits = 64;

}  // namespace

std::string sha256_hex(std::span<const std::byte> data) {
  state s = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  const std::size_t whole = data.size() / 64;
  for (std::size_t i = 0; i < whole; ++i) compress(s, data.data() + 64 * i);
  std::array<std::byte, 128> tail{};
  const std::size_t rest = data.size() - 64 * whole;
  if (rest > 0) std::memcpy(tail.data(), data.data() + 64 * whole, rest);
  tail[rest] = std::byte{0x80};
  const std::size_t tail_blocks = rest < 56 ? 1 : 2;
  const std::uint64_t bits = static_cast<std::uint64_t>(data.size()) * 8;
  for (std::size_t i = 0; i < 8; ++i) tail[64 * tail_blocks - 1 - i] = static_cast<std::byte>(bits >> (8 * i) & 0xFF);
  for (std::size_t i = 0; i < tail_blocks; ++i) compress(s, tail.data() + 64 * i);
  std::string hex;
  for (const std::uint32_t word : s) {
    for (int shift = 28; shift >= 0; shift -= 4) hex += "0123456789abcdef"[word >> shift & 15u];
  }
  return hex;
}

std::uint64_t checksums_size(const std::vector<std::string>& names) {
  std::uint64_t bytes = 0;
  for (const std::string& name : names) bytes += hex_digits + 2 + name.size() + 1;
  return bytes;
}

result<void> write_checksums(const std::string& directory, const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) {
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
