// Rewrites LLVM IR text: checks before memory accesses, and counts of basic blocks with static costs.
#pragma once
#include <string>

namespace softmetal {
/// `check` adds the checks; blocks are always counted. Tables of costs and of source lines are appended.
std::string instrument(const std::string &ir, bool check);

/// Part of the key of cached libraries: change it with the rewriting.
inline constexpr const char *instrumenterVersion = "2";
} // namespace softmetal
