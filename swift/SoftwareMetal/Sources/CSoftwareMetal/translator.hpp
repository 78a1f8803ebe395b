// One pass over the tokens of an MSL text, which writes C++ for OpenCL. Private to the front end.
#pragma once
#include "frontend.hpp"

namespace softmetal {

enum class Scope { file, type, function, block };

struct Translator {
  const std::vector<Token> &t;
  Unit &u;
  std::string out;
  std::vector<Scope> scopes{Scope::file};
  std::vector<std::string> namespaces, typeNames;
  std::vector<int> namespaceDepth;
  std::set<std::string> aliases; // names that may stand for a vector: using, typedef, template parameters
  std::map<std::string, std::vector<Argument>> signatures; // kernel templates by name
  std::map<std::string, int> maxThreads;
  std::string currentFunction; // of the body being translated
  bool inKernel = false, pendingKernel = false;
  int variables = 0;
  std::map<size_t, std::string> declarators;
  std::set<std::string> constantNames;
  std::map<size_t, std::pair<size_t, size_t>> functions; // parameters of templates: first token -> (name, end)

  Translator(const std::vector<Token> &tokens, Unit &unit) : t(tokens), u(unit) {}

  // Spelling and scopes.
  void error(const Token &at, const std::string &m) { u.errors.push_back(errorAt(at, m)); }
  std::string text(size_t a, size_t b) const;
  std::string newlines(size_t a, size_t b) const;
  bool attributeAt(size_t i) const { return t[i].is("[") && t[i + 1].is("["); }
  // The spelling of a token in C++.
  std::string spelling(size_t i) const;
  // Address spaces after a parameter list qualify the object of a member function.
  bool qualifiesMember(size_t i) const;
  // The qualifier at i is that of a constructor.
  bool isConstructor(size_t i) const;
  std::string memberQualifier(const std::string &s) const;
  // A member function without a qualifier works on objects in thread memory only, as in Metal.
  bool unqualifiedMember(size_t i) const;
  void enterBrace(size_t i);
  std::string functionName(size_t a, size_t b) const;
  void leaveBrace();
  bool statementStart(size_t i) const { return !i || t[i - 1].is(";") || t[i - 1].is("{") || t[i - 1].is("}"); }
  void functionParameters(size_t i);
  // Translates the token at i, and advances.
  void step(size_t &i);

  // Kernels and their entry points (translator_kernels.cpp).
  std::vector<Argument> parameters(size_t open);
  void checkIndices(const Token &at, const std::string &name, const std::vector<Argument> &list);
  std::string qualified(const std::string &name) const;
  // Records the kernel whose name is token `name`, before its parameter list.
  void kernelDeclaration(size_t name, bool isTemplate, bool isInstantiation, const std::string &hostName, int threads);
  // Records the kernel, if any, that the declaration from i on, at file scope, declares.
  void findKernel(size_t i);
  void entries();

  // Declarations that change form (translator_declarations.cpp).
  // `threadgroup T a[n], b;` in a kernel becomes references into the threadgroup's memory.
  bool threadgroupVariables(size_t &i);
  bool functionConstant(size_t &i);
  // A program-scope constant may stand for the function constants that it is made from.
  void noteConstant(size_t i);

  // Vectors (translator_vectors.cpp).
  // End of a type that may be a vector, starting at i; i if there is none.
  size_t vectorTypeEnd(size_t i) const;
  bool isBool(size_t i) const { return t[i].text.compare(0, 4, "bool") == 0 && isVectorName(t[i].text); }
  void collectAliases();
  bool pointerAlias(size_t i) const;
  std::string maker(size_t a, size_t b) const;
  // Construction and conversion of vectors. True if tokens were consumed up to and including i.
  bool vectorExpression(size_t &i);
};

} // namespace softmetal
