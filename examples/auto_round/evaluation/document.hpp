// One document of a task: a line of a JSON Lines file, its fields read by name. What is wrong first is kept, so that a task asks once, at its end.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "error.hpp"
#include "io/json.hpp"

namespace auto_round::evaluation {

class document {
 public:
  /// `where` names the line in errors: "piqa.jsonl, line 3".
  document(io::json value, std::string where) : value_(std::move(value)), where_(std::move(where)) {}

  // Keys of nested objects are joined by '.'. A field that is absent or of another kind gives an empty value and makes ok() false.
  std::string text(std::string_view key);
  std::vector<std::string> texts(std::string_view key);
  /// Integers of 0 or more, also written as strings of digits: data sets have both.
  std::size_t index(std::string_view key);
  std::vector<std::size_t> indices(std::string_view key);
  /// Keeps `what` as the failure, unless there is one already.
  void complain(const std::string& what);

  bool ok() const { return problem_.empty(); }
  tl::unexpected<error> failure() const { return fail(error_kind::input, problem_, where_); }
  const std::string& where() const { return where_; }
  /// Equal fields, in whatever order.
  bool operator==(const document& other) const;

 private:
  const io::json& field(std::string_view key) const;

  io::json value_;
  std::string where_, problem_;
};

/// The documents of a JSON Lines file in their order, one a line. error_kind::input for lines that hold no object.
result<std::vector<document>> read_documents(const std::string& path);

}  // namespace auto_round::evaluation
