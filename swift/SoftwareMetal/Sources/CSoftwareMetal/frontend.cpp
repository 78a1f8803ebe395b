#include "frontend.hpp"
#include <algorithm>
#include <cstdlib>

namespace softmetal {
namespace {
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
  std::string pendingName;
  int variables = 0;
  std::map<size_t, std::string> declarators;

  Translator(const std::vector<Token> &tokens, Unit &unit) : t(tokens), u(unit) {}

  void error(const Token &at, const std::string &m) { u.errors.push_back(errorAt(at, m)); }
  std::string text(size_t a, size_t b) const {
    std::string s;
    for (size_t i = a; i < b; ++i) { if (i != a) s += t[i].space.empty() ? "" : " "; s += spelling(i); }
    return s;
  }
  std::string newlines(size_t a, size_t b) const { // keeps lines in step where tokens vanish
    std::string s;
    for (size_t i = a; i < b; ++i) for (char c : t[i].space) if (c == '\n') s += c;
    return s;
  }
  bool attributeAt(size_t i) const { return t[i].is("[") && t[i + 1].is("["); }

  // How a single token is spelled in the C++ that stands for MSL.
  std::string spelling(size_t i) const {
    const std::string &s = t[i].text;
    if (t[i].kind == Token::number) {
      size_t n = s.size();
      if (n > 2 && (s.compare(n - 2, 2, "bf") == 0 || s.compare(n - 2, 2, "BF") == 0) && s[1] != 'x' && s[1] != 'X') return "((bfloat)" + s.substr(0, n - 2) + (s.find_first_of(".eE") == std::string::npos ? ".0f)" : "f)");
      return s;
    }
    if (!t[i].isName()) return s;
    static const std::map<std::string, std::string> names = {
      {"device", "SM_DEVICE"}, {"constant", "const __global"}, {"threadgroup", "__local"}, {"thread", "__private"}, {"kernel", ""},
      {"local", "sm_n_local"}, {"global", "sm_n_global"}, {"generic", "sm_n_generic"}, {"read_only", "sm_n_read_only"}, {"write_only", "sm_n_write_only"}, {"read_write", "sm_n_read_write"},
      {"pipe", "sm_n_pipe"}, {"event_t", "sm_n_event_t"}, {"vec_step", "sm_n_vec_step"}, {"queue_t", "sm_n_queue_t"}, {"sampler_t", "sm_n_sampler_t"}, {"complex", "sm_n_complex"},
      {"atomic_int", "sm_atomic_int"}, {"atomic_uint", "sm_atomic_uint"}, {"atomic_float", "sm_atomic_float"}, {"atomic_ulong", "sm_atomic_ulong"}, {"atomic_bool", "sm_atomic_bool"}, {"atomic", "sm_atomic"}};
    auto n = names.find(s);
    if (n != names.end()) return n->second;
    if (s == "private" && !t[i + 1].is(":") && !(i && (t[i - 1].is(":") || t[i - 1].is(",")) && scopes.back() == Scope::file)) return "sm_n_private";
    return s;
  }
  // Address spaces after a parameter list qualify the object of a member function.
  bool qualifiesMember(size_t i) const {
    if (!i || scopes.back() != Scope::type) return false;
    size_t k = i - 1;
    while (k && (t[k].is("const") || t[k].is("volatile"))) --k;
    if (!t[k].is(")")) return false;
    k = i + 1;
    while (t[k].is("const")) ++k;
    return t[k].is("{") || t[k].is(";") || t[k].is("=") || t[k].is("->");
  }
  std::string memberQualifier(const std::string &s) const { return s == "device" ? "__global" : s == "threadgroup" ? "__local" : s == "constant" ? "__constant" : "__private"; }

  // End of a type that may be a vector, starting at i; i if there is none.
  size_t vectorTypeEnd(size_t i) const {
    if (!t[i].isName()) return i;
    if (t[i].is("metal") && t[i + 1].is("::")) { size_t e = vectorTypeEnd(i + 2); return e == i + 2 ? i : e; }
    if (isVectorName(t[i].text)) return i + 1;
    if (t[i].is("vec") && t[i + 1].is("<")) return closingAngle(t, i + 1);
    if (aliases.count(t[i].text) && !(i && t[i - 1].is("::"))) return i + 1;
    return i;
  }
  bool isBool(size_t i) const { return t[i].text.compare(0, 4, "bool") == 0 && isVectorName(t[i].text); }

  void collectAliases() {
    for (size_t i = 0; i + 3 < t.size(); ++i) {
      if ((t[i].is("typename") || t[i].is("class")) && t[i + 1].isName() && (t[i + 2].is(",") || t[i + 2].is(">") || t[i + 2].is("=")) && i && (t[i - 1].is("<") || t[i - 1].is(","))) aliases.insert(t[i + 1].text);
      bool vectorish = false;
      if (t[i].is("using") && t[i + 1].isName() && t[i + 2].is("=")) {
        for (size_t k = i + 3; k < t.size() && !t[k].is(";"); ++k) vectorish = vectorish || vectorTypeEnd(k) > k || t[k].is("typename") || t[k].is("conditional_t");
        if (vectorish && !pointerAlias(i + 3)) aliases.insert(t[i + 1].text);
      } else if (t[i].is("typedef")) {
        size_t k = i + 1;
        for (; k < t.size() && !t[k].is(";"); ++k) vectorish = vectorish || vectorTypeEnd(k) > k || t[k].is("typename");
        if (vectorish && t[k - 1].isName() && !pointerAlias(i + 1)) aliases.insert(t[k - 1].text);
      }
      // references to a matrix's elements must stay true while the matrix changes
      if (t[i].is("thread_elements") && i > 1) {
        size_t k = i;
        while (k && !t[k].is(";") && !t[k].is("{") && !t[k].is("}")) { if (t[k].is("=") && k > 1 && t[k - 1].isName() && (t[k - 2].is("&") || t[k - 2].is("*"))) u.heldReferences = true; --k; }
      }
    }
  }
  bool pointerAlias(size_t i) const {
    for (; i < t.size() && !t[i].is(";"); ++i) { if (t[i].is("*") || t[i].is("&") || t[i].is("(")) return true; if (t[i].is("<")) { size_t e = closingAngle(t, i); if (e > i) i = e - 1; } }
    return false;
  }

  // ---- kernels
  std::vector<Argument> parameters(size_t open) {
    std::vector<Argument> list;
    size_t end = closing(t, open) - 1;
    if (end == open + 1 || (end == open + 2 && t[open + 1].is("void"))) return list;
    Argument a; bool any = false, pointer = false;
    size_t first = open + 1;
    auto finish = [&](size_t stop) {
      if (!any) return;
      a.spelledType = text(first, stop);
      if (a.attribute.empty()) {
        bool memory = pointer && !a.spelledType.empty();
        if (!memory) error(t[first], "kernel parameter '" + a.name + "' has no attribute: pass values in buffers, or name what the thread asks for");
        else a.attribute = a.spelledType.find("__local") != std::string::npos ? "threadgroup" : "buffer";
      }
      list.push_back(a); a = Argument(); any = pointer = false; first = stop + 1;
    };
    for (size_t i = open + 1; i < end; ++i) {
      if (attributeAt(i)) {
        size_t e = closing(t, i);
        for (size_t k = i + 2; k + 2 < e; ++k) {
          if (!t[k].isName()) continue;
          size_t stop = k + 1;
          if (t[k + 1].is("(")) { stop = closing(t, k + 1); }
          if (t[k].is("function_constant")) { k = stop - 1; continue; }
          a.attribute = t[k].text;
          if (stop > k + 1) {
            a.indexText = text(k + 2, stop - 1); char *rest = nullptr; long v = strtol(a.indexText.c_str(), &rest, 0);
            if (rest && !*rest) a.index = static_cast<int>(v);
          }
          k = stop - 1;
        }
        i = e - 1;
        continue;
      }
      if (t[i].is("<")) { size_t e = closingAngle(t, i); if (e > i) i = e - 1; continue; }
      if (t[i].is("(") ) { i = closing(t, i) - 1; continue; }
      if (t[i].is(",")) { finish(i); continue; }
      any = true;
      if (t[i].is("*") || t[i].is("&")) pointer = true;
      if (t[i].is("constant")) a.constantSpace = true;
      if (t[i].is("const")) a.constantSpace = a.constantSpace || false;
      if (t[i].isName()) a.name = t[i].text;
    }
    finish(end);
    std::set<int> used;
    for (auto &p : list) if (p.attribute == "buffer" && p.index >= 0) used.insert(p.index);
    for (auto &p : list) {
      if (p.attribute == "buffer" && p.indexText.empty()) { int n = 0; while (used.count(n)) ++n; p.index = n; used.insert(n); p.indexText = std::to_string(n); }
      if (p.attribute == "threadgroup" && p.indexText.empty()) { p.index = 0; p.indexText = "0"; }
      p.writable = !p.constantSpace && p.spelledType.find("const ") == std::string::npos;
    }
    return list;
  }
  void checkIndices(const Token &at, const std::string &name, const std::vector<Argument> &list) {
    std::set<std::string> seen;
    for (auto &a : list) {
      if (a.indexText.empty()) continue;
      if (!seen.insert(a.attribute + a.indexText).second) error(at, "cannot reserve '" + a.attribute + "' resource location at index " + a.indexText + ": kernel '" + name + "' uses it twice");
      if (a.index > 30) error(at, "'" + a.attribute + "' attribute parameter is out of bounds: must be between 0 and 30");
    }
  }
  std::string qualified(const std::string &name) const { std::string s; for (auto &n : namespaces) s += n + "::"; return s + name; }

  // At the name of a kernel function, its parameter list following.
  void kernelDeclaration(size_t name, bool isTemplate, bool isInstantiation, const std::string &hostName, int threads) {
    size_t open = name + 1;
    std::string arguments;
    if (t[open].is("<")) { size_t e = closingAngle(t, open); arguments = text(open, e); open = e; }
    const std::string &base = t[name].text;
    Kernel k; k.baseName = base; k.line = t[name].line; k.hostName = hostName.empty() ? base : hostName; k.function = qualified(base) + arguments;
    if (isInstantiation) {
      auto s = signatures.find(base);
      if (s == signatures.end()) { error(t[name], "explicit instantiation of '" + base + "', which is not a kernel template"); return; }
      k.arguments = s->second; k.maxThreads = threads ? threads : maxThreads[base];
      if (hostName.empty()) k.hostName = base + arguments;
    } else {
      k.arguments = parameters(open); checkIndices(t[name], base, k.arguments);
      signatures[base] = k.arguments; maxThreads[base] = threads; k.maxThreads = threads;
      if (isTemplate) return;
    }
    for (auto &o : u.kernels) if (o.hostName == k.hostName) { error(t[name], "redefinition of kernel '" + k.hostName + "'"); return; }
    u.kernels.push_back(k);
  }
  // Looks at a declaration that begins at i, at file scope, for a kernel.
  void findKernel(size_t i) {
    size_t start = i; bool isTemplate = false, isInstantiation = false, isKernel = false; std::string host; int threads = 0;
    if (t[i].is("template")) {
      if (t[i + 1].is("<")) { isTemplate = true; i = closingAngle(t, i + 1); if (i == start + 1) return; }
      else { isInstantiation = true; ++i; }
    }
    size_t name = 0;
    for (; i + 1 < t.size(); ++i) {
      if (attributeAt(i)) {
        size_t e = closing(t, i);
        for (size_t k = i + 2; k < e; ++k) {
          if (t[k].is("kernel")) isKernel = true;
          if (t[k].is("vertex") || t[k].is("fragment")) error(t[k], "the software device runs compute kernels only");
          if (t[k].is("host_name")) // neighbouring string literals are one: macros build names that way
            for (size_t j = k + 2; t[j].kind == Token::string && t[j].text.size() > 1; ++j) host += t[j].text.substr(1, t[j].text.size() - 2);
          if (t[k].is("max_total_threads_per_threadgroup")) threads = atoi(t[k + 2].text.c_str());
        }
        i = e - 1;
        continue;
      }
      if (t[i].is("__attribute__") && t[i + 1].is("(")) { i = closing(t, i + 1) - 1; continue; }
      if (t[i].is("kernel")) { isKernel = true; continue; }
      if (t[i].is("decltype") && t[i + 1].is("(")) { i = closing(t, i + 1) - 1; continue; }
      if (t[i].is("(") || t[i].is(";") || t[i].is("{") || t[i].is("=")) break;
      if (t[i].is("<")) { size_t e = closingAngle(t, i); if (e == i) break; i = e - 1; continue; }
      if (t[i].isName()) name = i;
    }
    if (!isKernel || !name) return;
    if (!isInstantiation && !(name && t[name - 1].is("void"))) error(t[name], "kernel '" + t[name].text + "' must return void");
    kernelDeclaration(name, isTemplate, isInstantiation, host, threads);
    if (!isInstantiation) { pendingKernel = true; }
  }

  // ---- declarations in bodies
  // `threadgroup T a[n], b;` in a kernel becomes references into the threadgroup's memory.
  bool threadgroupVariables(size_t &i) {
    if (scopes.back() != Scope::block && scopes.back() != Scope::function) return false;
    size_t end = i + 1, name = 0;
    while (t[end].is("const") || t[end].is("volatile") || t[end].is("static")) ++end;
    size_t type = end;
    for (; end + 1 < t.size(); ++end) {
      if (t[end].is("<")) { size_t e = closingAngle(t, end); if (e == end) return false; end = e - 1; continue; }
      if (t[end].is("::")) continue;
      if (!t[end].isName()) break;
      name = end;
    }
    if (!name || name == type || t[end].is("*") || t[end].is("&") || t[end].is("(") || t[end].is(")") || t[end].is(">")) return false;
    std::string spelled = text(type, name);
    size_t stop = name; std::string code;
    for (;;) {
      size_t after = name + 1;
      while (t[after].is("[")) after = closing(t, after);
      if (t[after].is("=") || t[after].is("{")) { error(t[name], "variables in the threadgroup address space cannot have an initializer"); return false; }
      if (!inKernel) { error(t[name], "variables in the threadgroup address space can only be declared in a kernel function"); return false; }
      std::string id = std::to_string(variables++), alias = "sm_t" + id;
      if (variables > 256) { error(t[name], "more than 256 threadgroup variables"); return false; }
      u.variables.push_back({variables - 1, currentFunction});
      std::string dims; for (size_t k = name + 1; k < after; ++k) dims += spelling(k);
      code += "typedef " + spelled + " " + alias + dims + "; __local " + alias + " &" + spelling(name) + " = sm_threadgroup<" + id + ", " + alias + ">(); ";
      stop = after;
      if (!t[after].is(",")) break;
      name = after + 1;
    }
    if (!t[stop].is(";")) return false;
    if (stop - i > 0) out += t[i].space + code + newlines(i + 1, stop);
    i = stop; // the ';' follows from the loop
    return true;
  }
  bool functionConstant(size_t &i) {
    size_t k = i + 1;
    while (!(t[k].is(";") || t[k].is("=") || t[k].is("(") || t[k].is("{")) && !attributeAt(k) && k + 1 < t.size()) ++k;
    if (!attributeAt(k) || !t[k + 2].is("function_constant")) return false;
    FunctionConstant c; c.name = t[k - 1].text; c.type = text(i + 1, k - 1);
    size_t e = closing(t, k + 3); std::string index = text(k + 4, e - 1); char *rest = nullptr;
    c.index = static_cast<int>(strtol(index.c_str(), &rest, 0));
    if ((rest && *rest) || index.empty()) error(t[k + 2], "'function_constant' needs an integer index, found '" + index + "'");
    for (auto &o : u.constants) if (o.index == c.index) error(t[k - 1], "function constant index " + index + " is used by '" + o.name + "' already");
    for (size_t j = 0; j + 2 < t.size(); ++j) if (t[j].is("is_function_constant_defined") && t[j + 2].text == c.name) c.optional = true;
    u.constants.push_back(c);
    out += t[i].space + "static __global const " + c.type + " " + c.name + " = sm_function_constant<" + c.type + ">(" + index + "); static __global const bool sm_defined" + index + " = sm_constant_defined(" + index + ")" + newlines(i + 1, closing(t, k));
    i = closing(t, k) - 1;
    return true;
  }
  // A program-scope constant may stand for the function constants that it is made from.
  void noteConstant(size_t i) {
    size_t name = 0, k = i;
    for (; k + 1 < t.size() && !t[k].is(";") && !t[k].is("=") && !t[k].is("(") && !t[k].is("{") && !t[k].is("["); ++k) if (t[k].isName()) name = k;
    if (!name || !t[k].is("=")) return;
    std::set<std::string> used;
    for (; k + 1 < t.size() && !t[k].is(";"); ++k) if (t[k].isName() && constantNames.count(t[k].text)) used.insert(t[k].text);
    if (!used.empty()) { constantNames.insert(t[name].text); u.mentions[t[name].text] = used; }
  }
  std::string maker(size_t a, size_t b) const { std::string ty = text(a, b); return (isBool(a) ? "sm_boolean<" : "sm_make<") + ty + ">"; }

  // Construction and conversion of vectors. True if tokens were consumed up to and including i.
  bool vectorExpression(size_t &i) {
    if (t[i].is("static_cast") && t[i + 1].is("<")) {
      size_t e = closingAngle(t, i + 1);
      if (e > i + 1 && !t[e - 2].is("&") && !t[e - 2].is("*")) { out += t[i].space + "sm_static_cast"; return true; }
      return false;
    }
    if (t[i].is("(") && i + 3 < t.size()) { // a cast
      size_t e = vectorTypeEnd(i + 1);
      bool operandBefore = i && (t[i - 1].isName() ? !(t[i - 1].is("return") || t[i - 1].is("case") || t[i - 1].is("else")) : t[i - 1].is(")") || t[i - 1].is("]") || t[i - 1].is(">"));
      if (e > i + 1 && t[e].is(")") && !operandBefore && (t[e + 1].isName() || t[e + 1].kind == Token::number || t[e + 1].is("(") || t[e + 1].is("-") || t[e + 1].is("~") || t[e + 1].is("*"))) {
        out += t[i].space + "sm_c<" + text(i + 1, e) + ">() ->* "; i = e; return true;
      }
      return false;
    }
    size_t e = vectorTypeEnd(i);
    if (e == i) return false;
    if (t[i].is("vec") && t[e - 1].is(">") && t[e - 2].is("64")) { out += t[i].space + "sm_fragment<" + text(i + 2, e - 3) + ">"; i = e - 1; return true; }
    bool previousAllows = !i || !(t[i - 1].is("operator") || t[i - 1].is(".") || t[i - 1].is("->") || t[i - 1].is("~") || t[i - 1].is("typename") || t[i - 1].is("class") || t[i - 1].is("struct") || t[i - 1].is("using"));
    if (!previousAllows) return false;
    bool body = scopes.back() == Scope::block || scopes.back() == Scope::function;
    if (t[e].is("(") && (body || (i && (t[i - 1].is("=") || t[i - 1].is("return") || t[i - 1].is("(") || t[i - 1].is(","))))) {
      if (t[e + 1].is("*") || t[e + 1].is("&")) return false; // a function type
      out += t[i].space + maker(i, e); i = e - 1; return true;
    }
    if (body && t[e].isName() && t[e + 1].is("(")) { // T name(arguments);
      size_t c = closing(t, e + 1);
      if (t[c].is(";") || t[c].is(",")) {
        for (; t[c].is(",") && t[c + 1].isName() && t[c + 2].is("("); c = closing(t, c + 2)) declarators[c + 1] = maker(i, e);
        out += t[i].space + text(i, e) + " " + spelling(e) + " = " + maker(i, e); i = e; return true;
      }
    }
    if (body && isBool(i) && e == i + 1 && t[e].isName() && t[e + 1].is("=") && !t[e + 2].is("{")) { // bool4 m = a < b;
      size_t c = e + 2;
      for (; c + 1 < t.size() && !t[c].is(";") && !t[c].is(","); ++c) if (t[c].is("(") || t[c].is("[") || t[c].is("{")) c = closing(t, c) - 1;
      out += t[i].space + t[i].text + " " + spelling(e) + " = " + maker(i, i + 1) + "(";
      for (size_t k = e + 2; k < c;) step(k);
      out += ")"; i = c - 1; return true;
    }
    return false;
  }

  // A member function without a qualifier works on objects in thread memory only, as in Metal.
  bool unqualifiedMember(size_t i) const {
    if (scopes.back() != Scope::type || !t[i].is(")")) return false;
    size_t j = i + 1;
    while (t[j].is("const") || t[j].is("volatile")) ++j;
    if (!t[j].is("{") && !t[j].is(";")) return false;
    size_t open = i; int depth = 0;
    for (;; --open) { if (t[open].is(")")) ++depth; if (t[open].is("(") && --depth == 0) break; if (!open) return false; }
    if (!open || (t[open - 1].isName() && !typeNames.empty() && t[open - 1].text == typeNames.back())) return false;
    for (size_t k = open; k-- > 0;) {
      if (t[k].is(";") || t[k].is("{") || t[k].is("}")) break;
      if (t[k].is("operator")) continue;
      if (t[k].is("=") && !(k && t[k - 1].is("operator")) && !(k > 1 && t[k - 2].is("operator"))) { if (t[open - 1].isName()) return false; }
      if (t[k].is("static") || t[k].is("friend") || t[k].is("typedef") || t[k].is("using") || t[k].is("static_assert") || t[k].is("~")) return false;
    }
    return t[open - 1].isName() || t[open - 1].kind == Token::punctuation;
  }
  void enterBrace(size_t i) {
    // What the statement before `{` declares decides the scope.
    size_t k = i; bool type = false, ns = false, paren = false, assigned = false; size_t nsName = 0;
    while (k > 0) {
      --k;
      if (t[k].is(";") || t[k].is("{") || t[k].is("}")) break;
      if (t[k].is("struct") || t[k].is("class") || t[k].is("union") || t[k].is("enum")) type = !(k && (t[k - 1].is("<") || t[k - 1].is(",")));
      if (t[k].is("namespace")) { ns = true; nsName = k + 1; }
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
      for (++n; n < i && !t[n].isName(); ++n) if (t[n].is("[")) n = closing(t, n) - 1;
      if (n < i && t[n].is("alignas")) n = closing(t, n + 1);
      scopes.push_back(Scope::type); typeNames.push_back(n < i ? t[n].text : "");
      return;
    }
    bool outer = scopes.back() == Scope::file || scopes.back() == Scope::type;
    if (outer && paren && !assigned) {
      scopes.push_back(Scope::function); inKernel = pendingKernel; pendingKernel = false;
      currentFunction = functionName(k, i);
      std::set<std::string> &m = u.mentions[currentFunction];
      for (size_t j = i, e = closing(t, i); j < e; ++j) if (t[j].isName() && !t[j - 1].is(".") && !t[j - 1].is("->") && (t[j + 1].is("(") || constantNames.count(t[j].text))) m.insert(t[j].text);
      return;
    }
    scopes.push_back(Scope::block);
  }
  std::set<std::string> constantNames;
  std::map<std::string, int> definitions;
  std::string functionName(size_t a, size_t b) const {
    for (size_t k = a; k < b; ++k) if (t[k].is("(") && k && t[k - 1].isName() && !t[k - 1].is("__attribute__") && !(k + 1 < b && t[k + 1].is("("))) return t[k - 1].text;
    return "";
  }
  void leaveBrace() {
    if (scopes.size() > 1) {
      if (!namespaceDepth.empty() && namespaceDepth.back() == static_cast<int>(scopes.size())) { namespaceDepth.pop_back(); namespaces.pop_back(); }
      if (scopes.back() == Scope::type && !typeNames.empty()) typeNames.pop_back();
      scopes.pop_back();
    }
    if (scopes.back() == Scope::file || scopes.back() == Scope::type) inKernel = false;
  }
  bool statementStart(size_t i) const { return !i || t[i - 1].is(";") || t[i - 1].is("{") || t[i - 1].is("}"); }

  // Translates the token at i, and advances.
  void step(size_t &i) {
    const Token &k = t[i];
    if (k.is("{")) enterBrace(i);
    if (k.is("}")) leaveBrace();
    if (scopes.back() == Scope::file && statementStart(i) && !k.is("{") && !k.is("}")) findKernel(i);
    if (scopes.back() == Scope::file && k.is(";")) pendingKernel = false;
    if (attributeAt(i)) { size_t e = closing(t, i); out += newlines(i, e); i = e; return; }
    if (k.is("_Pragma") && t[i + 1].is("(")) { i = closing(t, i + 1); return; }
    if (k.is("constant") && scopes.back() == Scope::file) noteConstant(i);
    if (k.is("constant") && functionConstant(i)) { ++i; return; }
    if (k.is("is_function_constant_defined") && t[i + 1].is("(")) {
      auto c = std::find_if(u.constants.begin(), u.constants.end(), [&](const FunctionConstant &c) { return c.name == t[i + 2].text; });
      if (c == u.constants.end()) error(t[i + 2], "'" + t[i + 2].text + "' is not a function constant");
      else { out += k.space + "sm_defined" + std::to_string(c->index); i = closing(t, i + 1); return; }
    }
    if (k.is("threadgroup") && threadgroupVariables(i)) return;
    if (unqualifiedMember(i)) { out += k.space + ") __private"; ++i; return; }
    if (isAddressSpace(k.text) && qualifiesMember(i)) { out += k.space + memberQualifier(k.text); ++i; return; }
    if (vectorExpression(i)) { ++i; return; }
    auto declarator = declarators.find(i); // of a list: `float3 a(…), b(…);`
    if (declarator != declarators.end()) { out += k.space + spelling(i) + " = " + declarator->second; ++i; return; }
    out += k.space + spelling(i);
    ++i;
  }
  void entries() {
    static const std::map<std::string, std::string> positions = {
      {"thread_position_in_grid", "l->threadInGrid"}, {"thread_position_in_threadgroup", "l->threadInGroup"}, {"threadgroup_position_in_grid", "l->groupInGrid"},
      {"threads_per_threadgroup", "l->groupSize"}, {"dispatch_threads_per_threadgroup", "l->nominalSize"}, {"threadgroups_per_grid", "l->groups"}, {"threads_per_grid", "l->gridSize"},
      {"grid_size", "l->gridSize"}, {"thread_index_in_threadgroup", "&l->threadIndex"}, {"thread_index_in_simdgroup", "&l->lane"}, {"simdgroup_index_in_threadgroup", "&l->simdIndex"},
      {"simdgroups_per_threadgroup", "&l->simdCount"}, {"dispatch_simdgroups_per_threadgroup", "&l->nominalSimdCount"}, {"threads_per_simdgroup", "32"}, {"thread_execution_width", "32"},
      {"thread_index_in_quadgroup", "l->lane & 3"}, {"quadgroup_index_in_threadgroup", "l->threadIndex >> 2"}, {"quadgroups_per_threadgroup", "(l->groupSize[0] * l->groupSize[1] * l->groupSize[2] + 3) >> 2"},
      {"dispatch_quadgroups_per_threadgroup", "(l->nominalSize[0] * l->nominalSize[1] * l->nominalSize[2] + 3) >> 2"}, {"grid_origin", "0"}};
    for (size_t n = 0; n < u.kernels.size(); ++n) {
      Kernel &k = u.kernels[n];
      std::string args;
      for (size_t i = 0; i < k.arguments.size(); ++i) {
        const Argument &a = k.arguments[i];
        std::string type = "typename F::template arg<" + std::to_string(i) + ">", e;
        if (a.attribute == "buffer") e = "sm_buffer<" + type + ">(l, " + a.indexText + ")";
        else if (a.attribute == "threadgroup") e = "sm_dynamic<" + type + ">(l, " + a.indexText + ")";
        else {
          auto p = positions.find(a.attribute);
          if (p == positions.end()) {
            u.errors.push_back("program_source:" + std::to_string(k.line) + ":1: error: unknown attribute '" + a.attribute + "' of kernel parameter '" + a.name + "'");
            continue;
          }
          bool pointer = p->second[0] == '&' || (p->second.compare(0, 3, "l->") == 0 && p->second.find(' ') == std::string::npos);
          e = pointer ? "sm_position<" + type + ">(" + p->second + ")" : "sm_scalar<" + type + ">(" + p->second + ")";
        }
        args += (i ? ", " : "") + e;
      }
      std::string id = std::to_string(n);
      out += "template <class F> SM_INLINE void sm_call" + id + "(__private SmLane *l) { " + k.function + "(" + args + "); }\n"
             "extern \"C\" __attribute__((visibility(\"default\"))) void sm_entry" + id + "(__private SmLane *l) { sm_call" + id + "<sm_signature<decltype(" + k.function + ")>>(l); }\n";
    }
  }
};
} // namespace

Unit translate(const std::vector<Token> &tokens, const FrontendOptions &options) {
  Unit u;
  Translator tr(tokens, u);
  tr.collectAliases();
  for (size_t i = 0; i + 5 < tokens.size(); ++i)
    if (tokens[i].is("[") && tokens[i + 1].is("[") && tokens[i + 2].is("function_constant") && i) tr.constantNames.insert(tokens[i - 1].text);
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
