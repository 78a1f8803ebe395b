#include "frontend.hpp"
#include <algorithm>
#include <functional>

namespace softmetal {

std::string errorAt(const Token &t, const std::string &message) {
  return "program_source:" + std::to_string(t.line) + ":" + std::to_string(t.column) + ": error: " + message;
}
bool isScalarName(const std::string &s) {
  static const std::set<std::string> names = {
      "bool",    "char",     "uchar",   "short",    "ushort",    "int",    "uint",    "long",    "ulong",
      "half",    "bfloat",   "float",   "size_t",   "ptrdiff_t", "int8_t", "uint8_t", "int16_t", "uint16_t",
      "int32_t", "uint32_t", "int64_t", "uint64_t", "unsigned",  "signed", "void"};
  return names.count(s) != 0;
}
bool isVectorName(const std::string &s) {
  if (s.size() < 4 || s.back() < '2' || s.back() > '4') return false;
  static const std::set<std::string> names = {"bool", "char", "uchar", "short", "ushort", "int",
                                              "uint", "long", "ulong", "half",  "bfloat", "float"};
  return names.count(s.substr(0, s.size() - 1)) != 0;
}
bool isAddressSpace(const std::string &s) {
  return s == "device" || s == "threadgroup" || s == "constant" || s == "thread" || s == "threadgroup_imageblock" ||
         s == "ray_data" || s == "object_data";
}

namespace {
using Tokens = std::vector<Token>;

void bannedNames(const Tokens &t, const FrontendOptions &o, Unit &u) {
  static const std::map<std::string, std::string> banned = {
      {"double", "'double' is not supported in Metal"},
      {"new", "'new' is not supported in Metal"},
      {"delete", "'delete' is not supported in Metal"},
      {"virtual", "virtual functions are not supported in Metal"},
      {"goto", "'goto' is not supported in Metal"},
      {"try", "cannot use 'try' with exceptions disabled"},
      {"throw", "cannot use 'throw' with exceptions disabled"},
      {"catch", "cannot use 'catch' with exceptions disabled"},
      {"dynamic_cast", "use of dynamic_cast requires -frtti"},
      {"typeid", "use of typeid requires -frtti"},
      {"thread_local", "thread-local storage is not supported in Metal"},
      {"asm", "'asm' is not supported in Metal"},
      {"noexcept", "'noexcept' is not supported in Metal"},
      {"__global", "unknown type name '__global'"},
      {"__local", "unknown type name '__local'"},
      {"__private", "unknown type name '__private'"},
      {"__generic", "unknown type name '__generic'"},
      {"__constant", "unknown type name '__constant'"}};
  for (size_t i = 0; i + 1 < t.size(); ++i) {
    if (!t[i].isName()) continue;
    auto b = banned.find(t[i].text);
    bool deleted = t[i].is("delete") && i && t[i - 1].is("=");
    if (b != banned.end() && !deleted) u.errors.push_back(errorAt(t[i], b->second));
    if (t[i].is("std") && t[i + 1].is("::")) u.errors.push_back(errorAt(t[i], "use of undeclared identifier 'std'"));
    if (t[i].text.compare(0, 3, "sm_") == 0)
      u.errors.push_back(errorAt(t[i], "names that begin with 'sm_' belong to the software device"));
    if (t[i].is("__asm") || t[i].is("__asm__")) {
      bool air = t[i + 1].is("(") && t[i + 2].text.compare(0, 5, "\"air.") == 0;
      if (!air) u.errors.push_back(errorAt(t[i], "inline assembly is not supported in Metal"));
      else if (!o.allowInlineAIR)
        u.errors.push_back(errorAt(t[i], "illegal string literal in 'asm': AIR functions may not be declared by name"));
    }
  }
}
void lambdas(const Tokens &t, Unit &u) {
  for (size_t i = 1; i + 2 < t.size(); ++i) {
    if (!t[i].is("[") || t[i + 1].is("[") || t[i - 1].is("[")) continue;
    const Token &before = t[i - 1];
    if (!(before.is("=") || before.is("(") || before.is(",") || before.is("return") || before.is("{") ||
          before.is(";")))
      continue;
    size_t e = closing(t, i);
    if (t[e].is("(") || t[e].is("{"))
      u.errors.push_back(errorAt(t[i], "lambda expressions are not supported in Metal"));
  }
}
// Functions may be arguments of templates, known when a kernel is compiled.
void functionPointers(const Tokens &t, Unit &u) {
  for (size_t i = 1; i + 4 < t.size(); ++i) {
    if (t[i].is("<") && t[i - 1].is("template")) {
      size_t e = closingAngle(t, i);
      if (e > i) i = e;
      if (i + 4 >= t.size()) break;
    }
    if (t[i].is("(") && (t[i + 1].is("*") || t[i + 1].is("&")) && t[i + 2].isName() && t[i + 3].is(")") &&
        t[i + 4].is("(") && t[i - 1].isName() && !t[i - 1].is("return"))
      u.errors.push_back(errorAt(t[i + 2], "function pointers are not supported in Metal: '" + t[i + 2].text + "'"));
  }
}
// Every pointer and reference names the address space that it points into.
void addressSpaces(const Tokens &t, Unit &u) {
  std::set<std::string> types, aliasesWithSpace;
  for (size_t i = 0; i + 2 < t.size(); ++i) {
    if ((t[i].is("struct") || t[i].is("class") || t[i].is("union")) && t[i + 1].isName()) types.insert(t[i + 1].text);
    if (t[i].is("enum")) types.insert(t[i + 1].is("class") ? t[i + 2].text : t[i + 1].text);
  }
  auto baseType = [&](size_t i) {
    return t[i].isName() && (isScalarName(t[i].text) || isVectorName(t[i].text) || types.count(t[i].text));
  };
  for (size_t i = 1; i + 1 < t.size(); ++i) {
    if (!(t[i].is("*") || t[i].is("&"))) continue;
    size_t last = i - 1; // the type's last token
    if (t[last].is("const") || t[last].is("volatile")) {
      if (!last) continue;
      --last;
    }
    bool pointerToPointer = t[last].is("*") && last && !t[i].is("&");
    if (pointerToPointer) {
      // `T ** p`: the outer pointer's target has no address space. An expression `a ** b` has a name that is no type
      // before it.
      size_t k = last - 1;
      while (k && (t[k].is("const") || t[k].is("volatile"))) --k;
      if (baseType(k) && t[i + 1].isName())
        u.errors.push_back(errorAt(t[i], "pointer type must have explicit address space qualifier"));
      continue;
    }
    bool templated = t[last].is(">");
    if (templated) { // find the name before the template arguments
      int depth = 0;
      size_t k = last;
      for (; k > 0; --k) {
        if (t[k].is(">")) ++depth;
        if (t[k].is("<") && --depth == 0) break;
        if (t[k].is(";") || t[k].is("{")) break;
      }
      if (!k || !t[k].is("<")) continue;
      last = k - 1;
      if (!(t[last].is("vec") || t[last].is("simdgroup_matrix") || types.count(t[last].text))) continue;
    } else if (!baseType(last)) continue;
    bool declarator = t[i + 1].isName() || t[i + 1].is(")") || t[i + 1].is(",") || t[i + 1].is(">") || t[i + 1].is("(");
    if (!declarator) continue;
    if (t[i + 1].is("(") && !(i >= 2 && (t[i - 2].is("(") || t[i - 2].is(",") || t[i - 2].is(";") || t[i - 2].is("{"))))
      continue;
    bool found = false; // look back over the declaration for an address space
    for (size_t k = last + 1; k-- > 0;) {
      const Token &b = t[k];
      if (isAddressSpace(b.text)) {
        found = true;
        break;
      }
      if (b.is("auto") || b.is("using") || b.is("operator")) {
        found = true;
        break;
      }
      if (b.is("(") || b.is(",") || b.is(";") || b.is("{") || b.is("}") || b.is("<") || b.is("=") || b.is(")")) break;
    }
    if (!found)
      u.errors.push_back(errorAt(t[i], std::string(t[i].is("*") ? "pointer" : "reference") +
                                           " type must have explicit address space qualifier"));
  }
}
// Walks declarations at namespace scope.
void programScope(const Tokens &t, Unit &u) {
  std::vector<size_t> statement; // tokens of the current statement
  int depthOther = 0;            // inside functions, structs and enums
  std::vector<bool> isNamespace;
  auto judge = [&](const Token &end) {
    (void)end;
    if (statement.empty()) return;
    static const std::set<std::string> other = {
        "using",  "typedef",   "template", "struct",   "class",  "union",  "enum",     "static_assert",
        "extern", "namespace", "friend",   "constant", "kernel", "vertex", "fragment", "_Static_assert"};
    bool paren = false, sampler = false;
    for (size_t k : statement) {
      if (other.count(t[k].text)) return;
      if (t[k].is("(")) paren = true;
      if (t[k].is("=")) break;
      if (t[k].is("sampler")) sampler = true;
    }
    if (paren || sampler || statement.size() < 2) return;
    u.errors.push_back(errorAt(t[statement[0]], "program scope variable must reside in constant address space"));
  };
  for (size_t i = 0; i + 1 < t.size(); ++i) {
    if (t[i].is("[") && t[i + 1].is("[")) {
      i = closing(t, i) - 1;
      continue;
    }
    if (t[i].is("{")) {
      bool ns = false, initializer = false;
      for (size_t k : statement) {
        ns = ns || t[k].is("namespace");
        initializer = initializer || t[k].is("=");
      }
      if (!depthOther && ns) {
        isNamespace.push_back(true);
        statement.clear();
        continue;
      }
      if (!depthOther && initializer) {
        i = closing(t, i) - 1;
        continue;
      }
      isNamespace.push_back(false);
      ++depthOther;
      continue;
    }
    if (t[i].is("}")) {
      if (!isNamespace.empty()) {
        if (!isNamespace.back()) --depthOther;
        isNamespace.pop_back();
      }
      if (!depthOther && !t[i + 1].is(";")) statement.clear();
      continue;
    }
    if (depthOther) continue;
    if (t[i].is(";")) {
      judge(t[i]);
      statement.clear();
      continue;
    }
    statement.push_back(i);
  }
}
// A function that reaches itself. Overloads and templates share names, so only names defined once are judged; not those
// added to the library's namespace, which call their namesakes there.
void recursion(const Tokens &t, const Unit &unit, Unit &u) {
  for (auto &entry : unit.mentions) {
    const std::string &name = entry.first;
    const std::set<std::string> &body = entry.second;
    if (unit.overloads.count(name)) continue;
    if (!body.count(name)) {
      std::set<std::string> seen;
      bool cycle = false;
      std::function<void(const std::string &)> visit = [&](const std::string &n) {
        auto m = unit.mentions.find(n);
        if (m == unit.mentions.end()) return;
        for (auto &c : m->second) {
          if (c == name) cycle = true;
          else if (unit.mentions.count(c) && seen.insert(c).second) visit(c);
        }
      };
      visit(name);
      if (!cycle) continue;
    }
    for (auto &k : t)
      if (k.text == name) {
        u.errors.push_back(errorAt(k, "recursive functions are not supported in Metal: '" + name + "' calls itself"));
        break;
      }
  }
}
} // namespace

void lint(const Tokens &t, const FrontendOptions &options, Unit &u) {
  bannedNames(t, options, u);
  lambdas(t, u);
  functionPointers(t, u);
  addressSpaces(t, u);
  programScope(t, u);
  recursion(t, u, u);
}
} // namespace softmetal
