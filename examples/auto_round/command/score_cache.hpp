// Scores of AutoScheme on disk: one JSON file for each option, so that another target or another set of options costs no further pass.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "error.hpp"
#include "io/json.hpp"
#include "tune/pass_file.hpp"

namespace auto_round::command {

/// A folder of score files; empty path: nothing is found and nothing is kept.
class score_cache {
 public:
  explicit score_cache(std::string folder) : folder_(std::move(folder)) {}

  /// The scores of `names` under the run and option that `config` describes completely. Nothing if there is no such file, if it is not the same
  /// configuration in every value, or if it is damaged.
  std::optional<std::vector<double>> find(const io::json& config, const std::vector<std::string>& names) const;

  /// Writes them. The folder is made if need be (one level); a file of the same name is replaced.
  result<void> keep(const io::json& config, const std::vector<std::string>& names, const std::vector<double>& scores) const;

  /// Where a pass lies that makes scores, or what they are weighted with, under everything that `config` describes; the folder is made if need be. Nothing
  /// where nothing is kept.
  result<std::optional<tune::pass_file>> pass(const io::json& config) const;

  /// The file of these scores, there or not.
  std::string path_of(const io::json& config) const;

 private:
  std::string name_of(const io::json& config) const;
  result<void> make_folder() const;
  std::string folder_;
};

}  // namespace auto_round::command
