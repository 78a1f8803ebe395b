// MSL text to C++ for OpenCL that stock clang compiles, plus what the host must know of its kernels.
#pragma once
#include "lexer.hpp"
#include <map>
#include <set>
#include <string>
#include <vector>

namespace softmetal {

struct Argument {
  std::string name, attribute, indexText, spelledType;
  int index = -1;
  bool constantSpace = false, writable = false;
};

struct Kernel {
  std::string hostName, function; // `function` is how C++ names it: qualified, with template arguments
  std::string baseName;
  std::vector<Argument> arguments;
  int maxThreads = 0, line = 0;
};

struct FunctionConstant {
  std::string name, type;
  int index = -1;
  bool optional = false; // guarded by is_function_constant_defined
};

/// A `threadgroup` variable in the body of a kernel.
struct ThreadgroupVariable {
  int id;
  std::string kernel;
};

struct Unit {
  std::string text;
  std::vector<Kernel> kernels;
  std::vector<FunctionConstant> constants;
  std::vector<ThreadgroupVariable> variables;
  std::map<std::string, std::set<std::string>> mentions; // function -> names in its body
  std::set<std::string> overloads;                       // functions that the program adds to the library's namespace
  bool heldReferences = false;
  std::vector<std::string> errors; // "program_source:LINE:COL: error: …"
};

struct FrontendOptions {
  bool allowInlineAIR = true;
};

Unit translate(const std::vector<Token> &tokens, const FrontendOptions &options);

/// Rules of MSL that neither types nor the OpenCL dialect enforce.
void lint(const std::vector<Token> &tokens, const FrontendOptions &options, Unit &unit);

std::string errorAt(const Token &t, const std::string &message);
bool isVectorName(const std::string &s);
bool isScalarName(const std::string &s);
bool isAddressSpace(const std::string &s);

} // namespace softmetal
