// Runs clang, and keeps what it makes.
#pragma once
#include <string>
#include <vector>

namespace softmetal {
enum class Mode { fast = 0, counted = 1, checked = 2 };

/// The path of the shared library made from `text` (C++ for OpenCL), or empty with `log` filled.
std::string compileKernels(const std::string &text, Mode mode, const std::vector<std::string> &flags, std::string &log);

/// The executor, compiled once and loaded; null with `log` filled.
void *executorHandle(std::string &log);

/// The text after macros and conditionals; false with `log` filled.
bool preprocess(const std::string &source, const std::vector<std::string> &defines, std::string &out, std::string &log);

std::string cacheDirectory();
std::string environment(const char *name);
} // namespace softmetal
