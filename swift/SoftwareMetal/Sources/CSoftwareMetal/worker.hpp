// Processes that compile.
#pragma once
#include <string>
#include <vector>

namespace softmetal {
struct Result {
  int status = -1; // of exit, or 128 and the signal
  std::string output;
  double seconds = 0; // of a processor
};

/// Runs a program, and waits for it.
Result runProcess(const std::vector<std::string> &arguments);

/// Runs clang with these arguments (the first one its own path), or `{"emit", level, IR text, object}`, in a child of
/// the compile worker: a clang that was started once (`device/worker.h`, whose library is `preload`). Any number at
/// once.
Result runWorker(const std::string &clang, const std::string &preload, const std::vector<std::string> &arguments);
} // namespace softmetal
