// Tokens of MSL text, with the positions that a preprocessor's line markers give them.
#pragma once
#include <string>
#include <vector>

namespace softmetal {

struct Token {
  enum Kind { identifier, number, string, punctuation, end };
  Kind kind;
  std::string space; // what stood before: blanks, newlines and line markers
  std::string text;
  int line, column;

  bool is(const char *s) const { return text == s; }
  bool isName() const { return kind == identifier; }
};

struct LexResult {
  std::vector<Token> tokens;      // the last one is of kind `end`
  bool needsPreprocessor = false; // directives other than #pragma and #include <metal_…>
};

/// Comments become blanks, `[[` and `]]` become `[` `[` and `]` `]`.
LexResult lex(const std::string &source);

/// Index after the bracket that closes the one at `i`; angle brackets count only where `i` is one.
size_t closing(const std::vector<Token> &t, size_t i);

/// Index after the `>` that closes the `<` at `i`, or `i` if none does within the statement.
size_t closingAngle(const std::vector<Token> &t, size_t i);

} // namespace softmetal
