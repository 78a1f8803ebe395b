#include "translator.hpp"
#include <algorithm>

namespace softmetal {

std::string Translator::text(size_t a, size_t b) const {
  std::string s;
  for (size_t i = a; i < b; ++i) {
    if (i != a) s += t[i].space.empty() ? "" : " ";
    s += spelling(i);
  }
  return s;
}
std::string Translator::newlines(size_t a, size_t b) const { // keeps lines in step where tokens vanish
  std::string s;
  for (size_t i = a; i < b; ++i)
    for (char c : t[i].space)
      if (c == '\n') s += c;
  return s;
}
std::string Translator::spelling(size_t i) const {
  const std::string &s = t[i].text;
  if (t[i].kind == Token::number) {
    size_t n = s.size();
    if (n > 2 && (s.compare(n - 2, 2, "bf") == 0 || s.compare(n - 2, 2, "BF") == 0) && s[1] != 'x' && s[1] != 'X')
      return "((bfloat)" + s.substr(0, n - 2) + (s.find_first_of(".eE") == std::string::npos ? ".0f)" : "f)");
    return s;
  }
  if (!t[i].isName()) return s;
  static const std::map<std::string, std::string> names = {{"device", "SM_DEVICE"},
                                                           {"constant", "const __global"},
                                                           {"threadgroup", "__local"},
                                                           {"thread", "__private"},
                                                           {"kernel", ""},
                                                           {"local", "sm_n_local"},
                                                           {"global", "sm_n_global"},
                                                           {"generic", "sm_n_generic"},
                                                           {"read_only", "sm_n_read_only"},
                                                           {"write_only", "sm_n_write_only"},
                                                           {"read_write", "sm_n_read_write"},
                                                           {"pipe", "sm_n_pipe"},
                                                           {"event_t", "sm_n_event_t"},
                                                           {"vec_step", "sm_n_vec_step"},
                                                           {"queue_t", "sm_n_queue_t"},
                                                           {"sampler_t", "sm_n_sampler_t"},
                                                           {"complex", "sm_n_complex"},
                                                           {"atomic_int", "sm_atomic_int"},
                                                           {"atomic_uint", "sm_atomic_uint"},
                                                           {"atomic_float", "sm_atomic_float"},
                                                           {"atomic_ulong", "sm_atomic_ulong"},
                                                           {"atomic_bool", "sm_atomic_bool"},
                                                           {"atomic", "sm_atomic"}};
  auto n = names.find(s);
  if (n != names.end()) return n->second;
  if (s == "private" && !t[i + 1].is(":") &&
      !(i && (t[i - 1].is(":") || t[i - 1].is(",")) && scopes.back() == Scope::file))
    return "sm_n_private";
  return s;
}
bool Translator::qualifiesMember(size_t i) const {
  if (!i || scopes.back() != Scope::type) return false;
  size_t k = i - 1;
  while (k && (t[k].is("const") || t[k].is("volatile"))) --k;
  if (!t[k].is(")")) return false;
  k = i + 1;
  while (t[k].is("const")) ++k;
  return t[k].is("{") || t[k].is(";") || t[k].is("=") || t[k].is("->");
}
bool Translator::isConstructor(size_t i) const {
  while (i && !t[i].is(")")) --i;
  int depth = 0;
  for (; i; --i) {
    if (t[i].is(")")) ++depth;
    if (t[i].is("(") && --depth == 0) break;
  }
  return i && !typeNames.empty() && t[i - 1].text == typeNames.back() && !(i > 1 && t[i - 2].is("~"));
}
std::string Translator::memberQualifier(const std::string &s) const {
  return s == "device" ? "__global" : s == "threadgroup" ? "__local" : s == "constant" ? "__constant" : "__private";
}
bool Translator::unqualifiedMember(size_t i) const {
  if (scopes.back() != Scope::type || !t[i].is(")")) return false;
  size_t j = i + 1;
  while (t[j].is("const") || t[j].is("volatile")) ++j;
  if (!t[j].is("{") && !t[j].is(";")) return false;
  size_t open = i;
  int depth = 0;
  for (;; --open) {
    if (t[open].is(")")) ++depth;
    if (t[open].is("(") && --depth == 0) break;
    if (!open) return false;
  }
  if (!open || (t[open - 1].isName() && !typeNames.empty() && t[open - 1].text == typeNames.back())) return false;
  for (size_t k = open; k-- > 0;) {
    if (t[k].is(";") || t[k].is("{") || t[k].is("}")) break;
    if (t[k].is(":") && k && (t[k - 1].is(")") || t[k - 1].is("thread")))
      return false; // an initialiser of a constructor
    if (t[k].is("operator")) continue;
    if (t[k].is("=") && !(k && t[k - 1].is("operator")) && !(k > 1 && t[k - 2].is("operator"))) {
      if (t[open - 1].isName()) return false;
    }
    if (t[k].is("static") || t[k].is("friend") || t[k].is("typedef") || t[k].is("using") || t[k].is("static_assert") ||
        t[k].is("~"))
      return false;
  }
  return t[open - 1].isName() || t[open - 1].kind == Token::punctuation;
}
void Translator::enterBrace(size_t i) {
  // What the statement before `{` declares decides the scope.
  size_t k = i;
  bool type = false, ns = false, paren = false, assigned = false;
  size_t nsName = 0;
  while (k > 0) {
    --k;
    if (t[k].is(";") || t[k].is("{") || t[k].is("}")) break;
    if (t[k].is("struct") || t[k].is("class") || t[k].is("union") || t[k].is("enum"))
      type = !(k && (t[k - 1].is("<") || t[k - 1].is(",")));
    if (t[k].is("namespace")) {
      ns = true;
      nsName = k + 1;
    }
    if (t[k].is(")")) paren = true;
    if (t[k].is("=")) assigned = true;
  }
  if (ns && !paren) {
    scopes.push_back(Scope::file);
    namespaceDepth.push_back(static_cast<int>(scopes.size()));
    namespaces.push_back(t[nsName].isName() ? t[nsName].text : "");
    return;
  }
  if (type && !paren) {
    size_t n = k;
    while (n < i && !(t[n].is("struct") || t[n].is("class") || t[n].is("union") || t[n].is("enum"))) ++n;
    for (++n; n < i && !t[n].isName(); ++n)
      if (t[n].is("[")) n = closing(t, n) - 1;
    if (n < i && t[n].is("alignas")) n = closing(t, n + 1);
    scopes.push_back(Scope::type);
    typeNames.push_back(n < i ? t[n].text : "");
    return;
  }
  bool outer = scopes.back() == Scope::file || scopes.back() == Scope::type;
  if (outer && paren && !assigned) {
    scopes.push_back(Scope::function);
    inKernel = pendingKernel;
    pendingKernel = false;
    currentFunction = functionName(k, i);
    for (auto &n : namespaces)
      if (n == "metal") u.overloads.insert(currentFunction);
    std::set<std::string> &m = u.mentions[currentFunction];
    for (size_t j = i, e = closing(t, i); j < e; ++j)
      if (t[j].isName() && !t[j - 1].is(".") && !t[j - 1].is("->") &&
          (t[j + 1].is("(") || constantNames.count(t[j].text)))
        m.insert(t[j].text);
    return;
  }
  scopes.push_back(Scope::block);
}
std::string Translator::functionName(size_t a, size_t b) const {
  for (size_t k = a; k < b; ++k)
    if (t[k].is("(") && k && t[k - 1].isName() && !t[k - 1].is("__attribute__") && !(k + 1 < b && t[k + 1].is("(")))
      return t[k - 1].text;
  return "";
}
void Translator::leaveBrace() {
  if (scopes.size() > 1) {
    if (!namespaceDepth.empty() && namespaceDepth.back() == static_cast<int>(scopes.size())) {
      namespaceDepth.pop_back();
      namespaces.pop_back();
    }
    if (scopes.back() == Scope::type && !typeNames.empty()) typeNames.pop_back();
    scopes.pop_back();
  }
  if (scopes.back() == Scope::file || scopes.back() == Scope::type) inKernel = false;
}
// `R (*f)(A…)` among the parameters of a template is `auto f`: clang deduces no pointer to a function of OpenCL.
void Translator::functionParameters(size_t i) {
  for (size_t k = i + 2, end = closingAngle(t, i + 1); k + 4 < end; ++k) {
    if (!t[k].is("(") || !(t[k + 1].is("*") || t[k + 1].is("&")) || !t[k + 2].isName() || !t[k + 3].is(")") ||
        !t[k + 4].is("("))
      continue;
    size_t first = k;
    while (first > i + 2 && !t[first - 1].is(",")) --first;
    functions[first] = {k + 2, closing(t, k + 4)};
  }
}
void Translator::step(size_t &i) {
  const Token &k = t[i];
  auto function = functions.find(i);
  if (function != functions.end()) {
    auto [name, end] = function->second;
    out += k.space + "auto " + spelling(name) + newlines(i + 1, end);
    i = end;
    return;
  }
  if (k.is("template") && t[i + 1].is("<")) functionParameters(i);
  if (k.is("{")) enterBrace(i);
  if (k.is("}")) leaveBrace();
  if (scopes.back() == Scope::file && statementStart(i) && !k.is("{") && !k.is("}")) findKernel(i);
  if (scopes.back() == Scope::file && k.is(";")) pendingKernel = false;
  if (attributeAt(i)) {
    size_t e = closing(t, i);
    out += newlines(i, e);
    i = e;
    return;
  }
  if (k.is("_Pragma") && t[i + 1].is("(")) {
    i = closing(t, i + 1);
    return;
  }
  if (k.is("constant") && scopes.back() == Scope::file) noteConstant(i);
  if (k.is("constant") && functionConstant(i)) {
    ++i;
    return;
  }
  if (k.is("is_function_constant_defined") && t[i + 1].is("(")) {
    auto c = std::find_if(u.constants.begin(), u.constants.end(),
                          [&](const FunctionConstant &c) { return c.name == t[i + 2].text; });
    if (c == u.constants.end()) error(t[i + 2], "'" + t[i + 2].text + "' is not a function constant");
    else {
      out += k.space + "sm_defined" + std::to_string(c->index);
      i = closing(t, i + 1);
      return;
    }
  }
  if (k.is("threadgroup") && threadgroupVariables(i)) return;
  if (unqualifiedMember(i)) {
    out += k.space + ") __private";
    ++i;
    return;
  }
  if (isAddressSpace(k.text) && qualifiesMember(i)) {
    // A temporary is no object of a named space for clang: `thread` constructors construct it, unqualified. Those that
    // use `this` need the space for the members that they call.
    size_t open = i, end = i;
    while (open + 1 < t.size() && !t[open].is("{") && !t[open].is(";")) ++open;
    if (t[open].is("{")) end = closing(t, open);
    bool usesThis = std::any_of(t.begin() + static_cast<long>(i), t.begin() + static_cast<long>(std::max(i, end)),
                                [](const Token &token) { return token.is("this"); });
    if (k.is("thread") && isConstructor(i) && !usesThis) {
      ++i;
      return;
    }
    out += k.space + memberQualifier(k.text);
    ++i;
    return;
  }
  if (vectorExpression(i)) {
    ++i;
    return;
  }
  auto declarator = declarators.find(i); // of a list: `float3 a(…), b(…);`
  if (declarator != declarators.end()) {
    out += k.space + spelling(i) + " = " + declarator->second;
    ++i;
    return;
  }
  out += k.space + spelling(i);
  ++i;
}

Unit translate(const std::vector<Token> &tokens, const FrontendOptions &options) {
  Unit u;
  Translator tr(tokens, u);
  tr.collectAliases();
  for (size_t i = 0; i + 5 < tokens.size(); ++i)
    if (tokens[i].is("[") && tokens[i + 1].is("[") && tokens[i + 2].is("function_constant") && i)
      tr.constantNames.insert(tokens[i - 1].text);
  // Types of functions (decltype of a kernel) need the extension; function pointers themselves are refused by lint.
  tr.out = "#pragma OPENCL EXTENSION __cl_clang_function_pointers : enable\n#line 1 \"program_source\"\n";
  for (size_t i = 0; tokens[i].kind != Token::end;) tr.step(i);
  tr.out += tokens.back().space + "\n#line 1 \"software_metal_entries\"\n";
  tr.entries();
  u.text = std::move(tr.out);
  lint(tokens, options, u);
  return u;
}
} // namespace softmetal
