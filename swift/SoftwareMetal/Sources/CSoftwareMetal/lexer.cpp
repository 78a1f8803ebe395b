#include "lexer.hpp"
#include <cctype>
#include <cstdlib>
#include <cstring>

namespace softmetal {
namespace {
bool identifierStart(char c) { return isalpha(static_cast<unsigned char>(c)) || c == '_'; }
bool identifierPart(char c) { return isalnum(static_cast<unsigned char>(c)) || c == '_'; }

struct Lexer {
  const std::string &s;
  size_t i = 0;
  int line = 1;
  size_t lineStart = 0;
  std::string space;
  LexResult out;

  void emit(Token::Kind kind, size_t end) {
    out.tokens.push_back({kind, std::move(space), s.substr(i, end - i), line, static_cast<int>(i - lineStart) + 1});
    space.clear();
    i = end;
  }
  void newline() {
    space += '\n';
    ++line;
    lineStart = ++i;
  }
  // A directive: line markers and `#pragma METAL fp contract` are kept for the compiler, other pragmas and Metal's own
  // headers dropped.
  void directive() {
    size_t end = i;
    while (end < s.size() && s[end] != '\n') end += s[end] == '\\' && end + 1 < s.size() ? 2 : 1;
    std::string text = s.substr(i, end - i);
    size_t k = text.find_first_not_of("# \t");
    if (k != std::string::npos && isdigit(static_cast<unsigned char>(text[k]))) {
      line = atoi(text.c_str() + k) - 1;
      space += "#line " + text.substr(k);
      size_t quote = space.rfind('"'); // flags after the file name are not part of #line
      if (quote != std::string::npos) space.resize(quote + 1);
    } else if (k != std::string::npos && text.compare(k, 4, "line") == 0) {
      line = atoi(text.c_str() + k + 4) - 1;
      space += text;
    } else if (size_t contract = text.find("METAL fp contract");
               k != std::string::npos && text.compare(k, 6, "pragma") == 0 && contract != std::string::npos) {
      space += "#pragma clang fp contract" + text.substr(contract + strlen("METAL fp contract"));
    } else if (k == std::string::npos || text.compare(k, 6, "pragma") == 0 ||
               (text.compare(k, 7, "include") == 0 && text.find("<metal_") != std::string::npos)) {
      // Directives over several lines keep their line count.
      for (char c : text)
        if (c == '\n') {
          space += '\n';
          ++line;
        }
    } else {
      out.needsPreprocessor = true;
      for (char c : text)
        if (c == '\n') {
          space += '\n';
          ++line;
        }
    }
    i = end;
    lineStart = i;
  }
  size_t numberEnd() const {
    size_t e = i;
    bool hex = s[i] == '0' && i + 1 < s.size() && (s[i + 1] == 'x' || s[i + 1] == 'X');
    while (e < s.size() && (identifierPart(s[e]) || s[e] == '.' || s[e] == '\'' ||
                            ((s[e] == '+' || s[e] == '-') && e > i &&
                             (hex ? s[e - 1] == 'p' || s[e - 1] == 'P' : s[e - 1] == 'e' || s[e - 1] == 'E'))))
      ++e;
    return e;
  }
  void run() {
    bool atLineStart = true;
    while (i < s.size()) {
      char c = s[i];
      char d = i + 1 < s.size() ? s[i + 1] : '\0';
      if (c == '\n') {
        newline();
        atLineStart = true;
        continue;
      }
      if (isspace(static_cast<unsigned char>(c))) {
        space += c;
        ++i;
        continue;
      }
      if (c == '\\' && d == '\n') {
        ++i;
        newline();
        continue;
      }
      if (c == '#' && atLineStart) {
        directive();
        continue;
      }
      atLineStart = false;
      if (c == '/' && d == '/') {
        while (i < s.size() && s[i] != '\n') ++i;
        continue;
      }
      if (c == '/' && d == '*') {
        space += ' ';
        for (i += 2; i < s.size() && !(s[i] == '*' && i + 1 < s.size() && s[i + 1] == '/');) {
          if (s[i] == '\n') newline();
          else ++i;
        }
        i += 2;
        continue;
      }
      if (identifierStart(c)) {
        size_t e = i;
        while (e < s.size() && identifierPart(s[e])) ++e;
        emit(Token::identifier, e);
        continue;
      }
      if (isdigit(static_cast<unsigned char>(c)) || (c == '.' && isdigit(static_cast<unsigned char>(d)))) {
        emit(Token::number, numberEnd());
        continue;
      }
      if (c == '"' || c == '\'') {
        size_t e = i + 1;
        while (e < s.size() && s[e] != c) e += s[e] == '\\' ? 2 : 1;
        emit(Token::string, e + 1 < s.size() ? e + 1 : s.size());
        continue;
      }
      static const char *pairs[] = {"::", "->", "<<", "<=", ">=", "==", "!=", "&&", "||", "+=",
                                    "-=", "*=", "/=", "%=", "&=", "|=", "^=", "++", "--"};
      size_t n = 1;
      for (const char *p : pairs)
        if (c == p[0] && d == p[1]) n = 2;
      emit(Token::punctuation, i + n); // ">>" stays two tokens: it may close two templates
    }
    out.tokens.push_back({Token::end, std::move(space), "", line, 1});
  }
};
} // namespace

LexResult lex(const std::string &source) {
  Lexer l{source, 0, 1, 0, {}, {}};
  l.run();
  return std::move(l.out);
}

size_t closing(const std::vector<Token> &t, size_t i) {
  int depth = 0;
  for (; i < t.size(); ++i) {
    const std::string &s = t[i].text;
    if (t[i].kind != Token::punctuation) continue;
    if (s == "(" || s == "[" || s == "{") ++depth;
    else if ((s == ")" || s == "]" || s == "}") && --depth == 0) return i + 1;
  }
  return t.size() - 1;
}

size_t closingAngle(const std::vector<Token> &t, size_t i) {
  int depth = 0;
  for (size_t k = i; k < t.size(); ++k) {
    const std::string &s = t[k].text;
    if (t[k].kind != Token::punctuation) continue;
    if (s == "<") ++depth;
    else if (s == ">") {
      if (--depth == 0) return k + 1;
    } else if (s == "(" || s == "[") k = closing(t, k) - 1;
    else if (s == ";" || s == "{" || s == "}" || s == "&&" || s == "||" || s == ")") return i;
  }
  return i;
}
} // namespace softmetal
