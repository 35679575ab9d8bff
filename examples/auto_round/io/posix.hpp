// Calls of POSIX until they have done all of their work; for this room alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace auto_round::io {

inline constexpr int end_of_file = -1;

/// Reads exactly `n` bytes at `offset`. 0, the reason (errno), or end_of_file.
int read_at(int fd, void* to, std::size_t n, std::uint64_t offset);

/// Writes all of `data` at `offset`. 0, or the reason; both are then moved on to what is left.
int write_at(int fd, std::span<const std::byte>& data, std::uint64_t& offset);

/// Syncs a file or folder by name. 0, or the reason. Folders that cannot be synced (some network file systems say EINVAL) are left to the file system.
int sync_path(const std::string& path, bool folder);

}  // namespace auto_round::io
