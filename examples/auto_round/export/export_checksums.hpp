// SHA256SUMS: lets `auto-round verify`, or sha256sum -c, find a flipped bit in a finished folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "error.hpp"

namespace auto_round::exporting {

inline constexpr const char* checksums_name = "SHA256SUMS";

std::string sha256_hex(std::span<const std::byte> data);  ///< FIPS 180-4, lower-case hexadecimal
result<std::string> file_sha256_hex(const std::string& path);  ///< of a file, which is not held in memory

std::uint64_t checksums_size(const std::vector<std::string>& names);  ///< bytes of the file for these names

/// Writes DIR/SHA256SUMS over the named files, in the given order, as sha256sum prints it. known: sums by name that are not computed again.
result<void> write_checksums(const std::string& directory, const std::vector<std::string>& names, const std::map<std::string, std::string>& known = {});

/// Name and sum of each line of DIR/SHA256SUMS; empty if there is none. error_kind::verification for lines that are no such.
result<std::vector<std::pair<std::string, std::string>>> read_checksums(const std::string& directory);

/// Recomputes every line. error_kind::verification names the first file that is missing or differs. Returns the number of files checked; 0 if the
/// folder has no SHA256SUMS.
result<std::size_t> check_checksums(const std::string& directory);

}  // namespace auto_round::exporting
