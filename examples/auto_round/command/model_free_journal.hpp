// The journal of a run that can be resumed: which files of the output are finished, under which input and options.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "error.hpp"
#include "io/checkpoint_dir.hpp"
#include "plan_model_free.hpp"

namespace auto_round::command {

class model_free_journal {
 public:
  /// Opens or makes `folder`. Files of a run with other input or options are removed from it, which `note` then says; with `restart` all are.
  static result<model_free_journal> open(const std::string& folder, const io::checkpoint_dir& source, const plan::model_free_plan& plan, bool restart,
                                           std::string& note);

  const std::string& folder() const { return folder_; }
  bool empty() const { return finished_.empty(); }
  /// True if the file is recorded and its bytes are still those that were written.
  bool has(const std::string& name) const;
  const std::map<std::string, std::string>& sums() const { return finished_; }  ///< SHA-256 of the recorded files by name
  /// Records a file that was finished in folder().
  result<void> record(const std::string& name);
  /// Removes what is left.
  void remove() const;

 private:
  result<void> write() const;

  std::string folder_, run_;
  std::map<std::string, std::string> finished_;  // name -> SHA-256
};

}  // namespace auto_round::command
