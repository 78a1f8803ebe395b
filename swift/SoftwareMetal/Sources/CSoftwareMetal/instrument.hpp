// Rewrites LLVM IR text: checks before memory accesses, and counts of basic blocks with static costs.
#pragma once
#include <string>

namespace softmetal {
/// `check` adds the checks, and with `redirect` an access uses the address that its check returns; blocks are always
/// counted. Tables of costs and of source lines are appended.
std::string instrument(const std::string &ir, bool check, bool redirect);

/// Part of the key of cached libraries: change it with the rewriting.
inline constexpr const char *instrumenterVersion = "3";
} // namespace softmetal
