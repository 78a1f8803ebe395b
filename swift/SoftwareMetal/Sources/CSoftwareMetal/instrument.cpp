#include "instrument.hpp"
#include "abi.h"
#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace softmetal {
namespace {
using View = std::string_view;

// Address spaces of clang's fake map: 0 stack, 1 constant (global), 3 threadgroup, 4 generic, 5 device.
enum Space { stackSpace = 0, constantSpace = 1, groupSpace = 3, genericSpace = 4, deviceSpace = 5 };

bool startsWith(View s, View p) { return s.substr(0, p.size()) == p; }
bool contains(View s, View p) { return s.find(p) != View::npos; }
long numberAfter(View s, View key, long otherwise) {
  size_t p = s.find(key);
  return p == View::npos ? otherwise : atol(std::string(s.substr(p + key.size(), 20)).c_str());
}

struct Type {
  uint64_t bytes = 0;
  uint32_t lanes = 1;
  bool floating = false;
  size_t length = 0;
};
// Reads a first-class type at the beginning of `s`.
Type readType(View s) {
  if (startsWith(s, "<") || startsWith(s, "[")) {
    char close = s[0] == '<' ? '>' : ']';
    size_t x = s.find(" x ");
    if (x == View::npos) return {};
    uint64_t n = strtoull(std::string(s.substr(1, x - 1)).c_str(), nullptr, 10);
    Type e = readType(s.substr(x + 3));
    size_t end = s.find(close, x + 3 + e.length);
    uint64_t bytes = n * e.bytes;
    if (close == '>' && e.bytes == 0) bytes = (n + 7) / 8; // vectors of i1
    return {bytes, static_cast<uint32_t>(n * e.lanes), e.floating, end == View::npos ? 0 : end + 1};
  }
  struct Named {
    const char *name;
    uint64_t bytes;
    bool floating;
  };
  static const Named named[] = {
      {"half", 2, true}, {"bfloat", 2, true}, {"float", 4, true}, {"double", 8, true}, {"ptr", 8, false}};
  for (auto &n : named)
    if (startsWith(s, n.name)) {
      size_t l = strlen(n.name);
      if (n.bytes == 8 && startsWith(s.substr(l), " addrspace(")) l = s.find(')', l) + 1;
      return {n.bytes, 1, n.floating, l};
    }
  if (startsWith(s, "i") && s.size() > 1 && isdigit(static_cast<unsigned char>(s[1]))) {
    size_t e = 1;
    uint64_t bits = 0;
    while (e < s.size() && isdigit(static_cast<unsigned char>(s[e])))
      bits = bits * 10 + static_cast<uint64_t>(s[e++] - '0');
    return {(bits + 7) / 8, 1, false, e};
  }
  if (startsWith(s, "{")) { // cmpxchg results and the like: only the length matters
    int d = 0;
    size_t e = 0;
    for (; e < s.size(); ++e) {
      if (s[e] == '{') ++d;
      if (s[e] == '}' && --d == 0) break;
    }
    return {0, 1, false, e + 1};
  }
  return {};
}
// A pointer operand "ptr addrspace(5) %x": its space, its text, and where it ends.
struct Pointer {
  int space = 0;
  View value;
  size_t length = 0;
};
Pointer readPointer(View s) {
  Pointer p;
  size_t i = 3;
  if (!startsWith(s, "ptr")) return p;
  if (startsWith(s.substr(3), " addrspace(")) {
    p.space = atoi(std::string(s.substr(14, 4)).c_str());
    i = s.find(')') + 1;
  }
  for (bool more = true; more;) { // attributes of arguments
    more = false;
    while (i < s.size() && s[i] == ' ') ++i;
    for (View a : {"noundef", "nonnull", "nocapture", "readonly", "writeonly", "readnone", "noalias", "captures(none)",
                   "returned", "immarg"})
      if (startsWith(s.substr(i), a) && i + a.size() < s.size() && s[i + a.size()] == ' ') {
        i += a.size();
        more = true;
      }
    if (startsWith(s.substr(i), "align ")) {
      i += 6;
      while (isdigit(static_cast<unsigned char>(s[i]))) ++i;
      more = true;
    }
    if (startsWith(s.substr(i), "dereferenceable")) {
      i = s.find(')', i) + 1;
      more = true;
    }
  }
  size_t e = i;
  int depth = 0;
  for (; e < s.size(); ++e) {
    if (s[e] == '(') ++depth;
    if (s[e] == ')' && --depth < 0) break;
    if (s[e] == ',' && depth == 0) break;
  }
  p.value = s.substr(i, e - i);
  p.length = e;
  return p;
}

struct Location {
  uint32_t line = 0;
  int scope = -1, inlinedAt = -1;
};

struct Instrumenter {
  View ir;
  bool check = false;
  bool redirects = false; // checks return the address that is used
  std::vector<View> lines;
  std::unordered_map<int, Location> locations;
  std::unordered_map<int, std::pair<int, int>> scopes; // id -> (file, parent scope)
  std::unordered_map<int, std::string> files;
  std::unordered_map<std::string, std::pair<int, bool>>
      roots; // per function: value -> (space it was cast from, pointer text known)
  std::string out;
  std::vector<uint32_t> costs, siteLines;
  std::map<uint32_t, uint32_t> siteOfLine;
  uint32_t block = 0;
  static constexpr size_t none = std::string::npos;
  size_t blockStart = none;      // in `out`, of the block that is being read
  std::unordered_set<int> loops; // numbers of loops' metadata, which hold places in the text

  void split() {
    size_t i = 0;
    while (i < ir.size()) {
      size_t e = ir.find('\n', i);
      if (e == View::npos) e = ir.size();
      lines.push_back(ir.substr(i, e - i));
      i = e + 1;
    }
  }
  void readMetadata() {
    for (View l : lines) {
      if (l.size() < 4 || l[0] != '!' || !isdigit(static_cast<unsigned char>(l[1]))) continue;
      int id = atoi(std::string(l.substr(1, 10)).c_str());
      if (contains(l, "!DILocation("))
        locations[id] = {static_cast<uint32_t>(numberAfter(l, "line: ", 0)),
                         static_cast<int>(numberAfter(l, "scope: !", -1)),
                         static_cast<int>(numberAfter(l, "inlinedAt: !", -1))};
      else if (contains(l, "!DISubprogram(") || contains(l, "!DILexicalBlock"))
        scopes[id] = {static_cast<int>(numberAfter(l, "file: !", -1)),
                      static_cast<int>(numberAfter(l, "scope: !", -1))};
      else if (contains(l, "!DIFile(")) {
        size_t a = l.find("filename: \"") + 11;
        files[id] = std::string(l.substr(a, l.find('"', a) - a));
      }
    }
  }
  const std::string &fileOf(int scope) {
    static const std::string none;
    auto s = scopes.find(scope);
    if (s == scopes.end()) return none;
    auto f = files.find(s->second.first);
    return f == files.end() ? none : f->second;
  }
  // The line of the program that an instruction belongs to, through inlining; `own`: not from the runtime header.
  uint32_t lineOf(View l, bool &runtime) {
    runtime = false;
    long id = numberAfter(l, "!dbg !", -1);
    for (bool first = true; id >= 0; first = false) {
      auto d = locations.find(static_cast<int>(id));
      if (d == locations.end()) return 0;
      const std::string &f = fileOf(d->second.scope);
      if (first && contains(f, "sm_runtime")) runtime = true;
      if (contains(f, "program_source")) return d->second.line;
      id = d->second.inlinedAt;
    }
    return 0;
  }
  uint32_t site(uint32_t line) {
    auto [s, fresh] = siteOfLine.try_emplace(line, 0);
    // Sites of one line are distinct: each remembers the buffer it hit last.
    (void)fresh;
    (void)s;
    siteLines.push_back(line);
    return static_cast<uint32_t>(siteLines.size());
  }
  void add(SmCost c, uint64_t n) { costs[block * SM_COSTS + c] += static_cast<uint32_t>(n); }
  void account(int space, uint64_t bytes, bool store) {
    switch (space) {
    case deviceSpace: add(store ? SM_DEVICE_WRITE : SM_DEVICE_READ, bytes); break;
    case groupSpace: add(store ? SM_TG_WRITE : SM_TG_READ, bytes); break;
    case constantSpace: add(SM_CONSTANT_READ, bytes); break;
    default: add(SM_STACK_BYTES, bytes);
    }
  }
  // Generic pointers come from objects' member functions: the cast that made one tells where it points.
  int resolve(const Pointer &p) {
    if (p.space != genericSpace) return p.space;
    auto r = roots.find(std::string(p.value));
    return r == roots.end() ? int(genericSpace) : r->second.first;
  }
  int check_(const Pointer &p, uint64_t bytes, uint32_t kind, uint64_t align, uint32_t line) {
    int space = resolve(p);
    if (!check || space == stackSpace || bytes == 0) return space;
    const char *f = space == groupSpace     ? "sm_check_threadgroup"
                    : space == genericSpace ? "sm_check_generic"
                                            : "sm_check_device";
    if (align > 128) align = 128;
    out += "  " + called(f, p) + "(ptr addrspace(" + std::to_string(p.space) + ") " + std::string(p.value) + ", i32 " +
           std::to_string(bytes | kind << 16 | align << 20) + ", i32 " + std::to_string(site(line)) + ")\n";
    return space;
  }
  // The beginning of a check's call, whose result takes the place of the operand if it redirects.
  std::string called(const std::string &f, const Pointer &p) {
    if (!redirects) return "call void @" + f;
    std::string name = "%sm.q" + std::to_string(siteLines.size());
    replaced.push_back({p.value, name});
    return name + " = call ptr" + (p.space ? " addrspace(" + std::to_string(p.space) + ")" : "") + " @sm_redirect" +
           f.substr(strlen("sm_check"));
  }
  void checkRange(const Pointer &p, View size, uint32_t kind, uint32_t line) {
    if (!check || resolve(p) == stackSpace) return;
    if (redirects) {
      out += "  " + called("sm_check_range", p) + "(ptr" +
             (p.space ? " addrspace(" + std::to_string(p.space) + ")" : "") + " " + std::string(p.value) + ", i64 " +
             std::string(size) + ", i32 " + std::to_string(kind) + ", i32 " + std::to_string(site(line)) + ")\n";
      return;
    }
    std::string value = "%sm.p" + std::to_string(siteLines.size());
    if (p.space)
      out += "  " + value + " = addrspacecast ptr addrspace(" + std::to_string(p.space) + ") " + std::string(p.value) +
             " to ptr\n";
    out += "  call void @sm_check_range(ptr " + (p.space ? value : std::string(p.value)) + ", i64 " +
           std::string(size) + ", i32 " + std::to_string(kind) + ", i32 " + std::to_string(site(line)) + ")\n";
  }
  void beginBlock() {
    endBlock();
    block = static_cast<uint32_t>(costs.size() / SM_COSTS);
    costs.resize(costs.size() + SM_COSTS, 0);
    blockStart = out.size();
  }
  // Counts the block that is behind us at its beginning; one that costs nothing is as good as uncounted.
  void endBlock() {
    auto first = costs.begin() + block * SM_COSTS;
    if (blockStart == none || std::all_of(first, costs.end(), [](uint32_t c) { return c == 0; })) {
      blockStart = none;
      return;
    }
    std::string n = std::to_string(block);
    out.insert(blockStart, "  %sm.b" + n + " = getelementptr inbounds i64, ptr %sm.counts, i64 " + n + "\n  %sm.v" + n +
                               " = load i64, ptr %sm.b" + n + "\n  %sm.w" + n + " = add i64 %sm.v" + n +
                               ", 1\n  store i64 %sm.w" + n + ", ptr %sm.b" + n + "\n");
    blockStart = none;
  }

  std::vector<std::pair<View, std::string>> replaced; // operands of the present instruction
  void instruction(View l) {
    replaced.clear();
    View body = l;
    std::string result;
    size_t eq = body.find(" = ");
    if (eq != View::npos && startsWith(body, "  %")) {
      result = std::string(body.substr(2, eq - 2));
      body = body.substr(eq + 3);
    } else body = body.substr(std::min(body.find_first_not_of(' '), body.size()));
    bool runtime;
    uint32_t line = lineOf(l, runtime);
    for (View q : {"tail ", "musttail ", "notail "})
      if (startsWith(body, q)) body = body.substr(q.size());
    View op = body.substr(0, body.find(' '));
    View rest = body.substr(std::min(op.size() + 1, body.size()));
    auto flags = [&](View s) { // fast-math and wrap flags
      for (bool more = true; more;) {
        more = false;
        for (View f : {"nuw ", "nsw ", "exact ", "fast ", "contract ", "nnan ", "ninf ", "nsz ", "arcp ", "afn ",
                       "reassoc ", "disjoint ", "nneg ", "samesign ", "inbounds ", "volatile ", "atomic ", "weak "})
          if (startsWith(s, f)) {
            s = s.substr(f.size());
            more = true;
          }
      }
      return s;
    };
    if (op == "addrspacecast" && startsWith(rest, "ptr")) {
      Pointer p = readPointer(rest.substr(0, rest.find(" to ")));
      roots[result] = {resolve(p), true};
    } else if (op == "getelementptr" || op == "phi" || op == "select" || op == "freeze") {
      size_t at = body.find("ptr addrspace(4) ");
      if (at != View::npos && op != "phi" && op != "select") {
        Pointer p = readPointer(body.substr(at));
        int s = resolve(p);
        if (s != genericSpace) roots[result] = {s, true};
      }
    } else if (op == "load") {
      bool atomic = startsWith(rest, "atomic ");
      View s = flags(rest);
      Type ty = readType(s);
      if (ty.length + 2 < s.size()) {
        Pointer p = readPointer(s.substr(ty.length + 2));
        if (atomic) {
          size_t sp = p.value.find(' ');
          if (sp != View::npos) p.value = p.value.substr(0, sp);
        }
        int space = check_(p, ty.bytes, atomic ? 3 : 0, static_cast<uint64_t>(numberAfter(s, ", align ", 1)), line);
        if (!runtime) account(space, ty.bytes, false);
      }
    } else if (op == "store") {
      bool atomic = startsWith(rest, "atomic ");
      View s = flags(rest);
      Type ty = readType(s);
      size_t at = s.find(", ptr", ty.length); // constant vectors contain commas, but no pointers
      if (at != View::npos) {
        Pointer p = readPointer(s.substr(at + 2));
        if (atomic) {
          size_t sp = p.value.find(' ');
          if (sp != View::npos) p.value = p.value.substr(0, sp);
        }
        int space =
            check_(p, ty.bytes, atomic ? 4 : 1, static_cast<uint64_t>(numberAfter(s.substr(at), ", align ", 1)), line);
        if (!runtime) account(space, ty.bytes, true);
      }
    } else if (op == "atomicrmw" || op == "cmpxchg") {
      size_t at = rest.find("ptr");
      View s = rest.substr(at);
      Pointer p = readPointer(s);
      Type ty = readType(s.substr(p.length + 2));
      int space = check_(p, ty.bytes, 2, ty.bytes, line);
      if (!runtime) {
        account(space, ty.bytes, false);
        account(space, ty.bytes, true);
      }
    } else if (op == "call") {
      call(rest, line, runtime);
    } else if (!runtime) {
      static const std::map<View, SmCost> kinds = {
          {"fadd", SM_FLOAT_OPS},      {"fsub", SM_FLOAT_OPS},        {"fmul", SM_FLOAT_OPS},
          {"fdiv", SM_FLOAT_OPS},      {"frem", SM_FLOAT_OPS},        {"fneg", SM_FLOAT_OPS},
          {"fcmp", SM_FLOAT_OPS},      {"add", SM_INT_OPS},           {"sub", SM_INT_OPS},
          {"mul", SM_INT_OPS},         {"udiv", SM_INT_OPS},          {"sdiv", SM_INT_OPS},
          {"urem", SM_INT_OPS},        {"srem", SM_INT_OPS},          {"shl", SM_INT_OPS},
          {"lshr", SM_INT_OPS},        {"ashr", SM_INT_OPS},          {"and", SM_INT_OPS},
          {"or", SM_INT_OPS},          {"xor", SM_INT_OPS},           {"icmp", SM_INT_OPS},
          {"select", SM_INT_OPS},      {"getelementptr", SM_INT_OPS}, {"br", SM_BRANCHES},
          {"switch", SM_BRANCHES},     {"sitofp", SM_CONVERSIONS},    {"uitofp", SM_CONVERSIONS},
          {"fptosi", SM_CONVERSIONS},  {"fptoui", SM_CONVERSIONS},    {"fpext", SM_CONVERSIONS},
          {"fptrunc", SM_CONVERSIONS}, {"trunc", SM_CONVERSIONS},     {"zext", SM_CONVERSIONS},
          {"sext", SM_CONVERSIONS}};
      auto k = kinds.find(op);
      if (k != kinds.end()) {
        View s = flags(rest);
        if (op == "fcmp" || op == "icmp") s = s.substr(s.find(' ') + 1);
        Type ty = readType(flags(s));
        add(k->second, ty.lanes ? ty.lanes : 1);
      } else if (op == "insertelement" || op == "extractelement" || op == "shufflevector") add(SM_OTHER_OPS, 1);
    }
    if (replaced.empty()) {
      emit(l);
      return;
    }
    std::sort(replaced.begin(), replaced.end(), [](auto &a, auto &b) { return a.first.data() > b.first.data(); });
    std::string changed(l);
    for (auto &[operand, name] : replaced) changed.replace(size_t(operand.data() - l.data()), operand.size(), name);
    emit(changed);
  }
  // Writes a line without its debug information, which is used up here and would cost the code generator time.
  void emit(View l) {
    size_t begin = out.size();
    out += l;
    for (View key : {View(" !dbg !"), View(" !llvm.loop !")}) {
      size_t a = out.find(key, begin), e = a + key.size();
      if (a == none) continue;
      if (key[2] == 'l') loops.insert(atoi(out.c_str() + e));
      while (e < out.size() && isdigit(static_cast<unsigned char>(out[e]))) ++e;
      if (out[a - 1] == ',') --a;
      out.erase(a, e - a);
    }
    out += '\n';
  }
  // Metadata that only debug information leads to.
  bool isDebug(View l) const {
    if (startsWith(l, "!llvm.dbg.cu")) return true;
    size_t is = l.find(" = ");
    if (is == View::npos || l[0] != '!') return false;
    View value = l.substr(is + 3);
    return startsWith(value, "!DI") || startsWith(value, "distinct !DI") ||
           loops.count(atoi(std::string(l.substr(1, is - 1)).c_str())) != 0;
  }
  void call(View rest, uint32_t line, bool runtime) {
    size_t at = rest.find('@');
    if (at == View::npos) return;
    View name = rest.substr(at + 1, rest.find('(', at) - at - 1);
    if (startsWith(name, "llvm.memcpy") || startsWith(name, "llvm.memmove") || startsWith(name, "llvm.memset")) {
      View args = rest.substr(rest.find('(', at) + 1);
      Pointer d = readPointer(args);
      bool set = startsWith(name, "llvm.memset");
      View tail = args.substr(d.length + 2);
      Pointer s;
      if (!set) {
        s = readPointer(tail);
        tail = tail.substr(s.length + 2);
      } else tail = tail.substr(tail.find(',') + 2);
      View size = tail.substr(4, tail.find(',') - 4); // "i64 N, i1 false)"
      checkRange(d, size, 1, line);
      if (!set) checkRange(s, size, 0, line);
      uint64_t n = strtoull(std::string(size).c_str(), nullptr, 10);
      if (!runtime) {
        account(resolve(d), n, true);
        if (!set) account(resolve(s), n, false);
      }
      return;
    }
    if (check &&
        (startsWith(name, "sm_") || startsWith(name, "air.") || startsWith(name, "\"air.") ||
         startsWith(name, "\"\\01air.")) &&
        !startsWith(name, "sm_check") && !startsWith(name, "sm_redirect") && !startsWith(name, "sm_entry") &&
        !startsWith(name, "sm_register") && name != "sm_constant") {
      if (startsWith(name, "sm_") || contains(name, "air.")) {
        std::string v = "%sm.s" + std::to_string(siteLines.size());
        out += "  " + v + " = getelementptr inbounds i8, ptr %sm.lane, i64 20\n  store i32 " +
               std::to_string(site(line)) + ", ptr " + v + "\n";
      }
    }
    if (runtime) return;
    if (startsWith(name, "llvm.")) {
      for (View f : {"llvm.fma", "llvm.fmuladd", "llvm.minnum", "llvm.maxnum", "llvm.fabs", "llvm.floor", "llvm.ceil",
                     "llvm.rint", "llvm.round", "llvm.trunc", "llvm.copysign"})
        if (startsWith(name, f)) {
          add(SM_FLOAT_OPS, contains(name, "fmuladd") || contains(name, "llvm.fma.") ? 2 : 1);
          return;
        }
      for (View f : {"llvm.sqrt", "llvm.exp", "llvm.log", "llvm.pow", "llvm.sin", "llvm.cos"})
        if (startsWith(name, f)) {
          add(SM_MATH_CALLS, 1);
          return;
        }
      for (View f : {"llvm.umin", "llvm.umax", "llvm.smin", "llvm.smax", "llvm.ctpop", "llvm.ctlz", "llvm.cttz",
                     "llvm.abs", "llvm.fshl", "llvm.bitreverse"})
        if (startsWith(name, f)) {
          add(SM_INT_OPS, 1);
          return;
        }
    } else if (name.size() > 2 && name.back() == 'f' && !startsWith(name, "_Z") && !startsWith(name, "sm_"))
      add(SM_MATH_CALLS, 1);
  }

  std::string run() {
    split();
    readMetadata();
    bool inFunction = false, skip = false;
    for (size_t n = 0; n < lines.size(); ++n) {
      View l = lines[n];
      if (!inFunction) {
        if (startsWith(l, "@llvm.global_ctors")) { // clang writes the associated variable in its address space: not
                                                   // readable as text
          std::string c(l);
          for (size_t p; (p = c.find("ptr addrspace(1) @")) != std::string::npos;) {
            size_t e = c.find_first_of(" }", p + 18);
            c.replace(p, e - p, "ptr null");
          }
          out += c + '\n';
          continue;
        }
        if (isDebug(l)) continue;
        emit(l);
        if (startsWith(l, "define ")) {
          inFunction = true;
          roots.clear();
          // Initialisers of program-scope variables run when the library is loaded, outside of any thread.
          skip = contains(l, "__cxx_global") || contains(l, "_GLOBAL__") || contains(l, "global_var_init");
          if (skip) continue;
          if (n + 1 < lines.size() && !lines[n + 1].empty() && lines[n + 1].back() == ':') {
            out += lines[++n];
            out += '\n';
          }
          out +=
              "  %sm.counts = call ptr asm \"movq sm_tls_counts@gottpoff(%rip), $0\\0A\\09movq %fs:($0), $0\", "
              "\"=r\"()\n"
              "  %sm.lane = call ptr asm \"movq sm_tls_lane@gottpoff(%rip), $0\\0A\\09movq %fs:($0), $0\", \"=r\"()\n";
          beginBlock();
        }
        continue;
      }
      if (l == "}") {
        inFunction = false;
        endBlock();
        out += "}\n";
        continue;
      }
      if (skip) {
        emit(l);
        continue;
      }
      size_t colon = l.find(':');
      if (!l.empty() && l[0] != ' ' && colon != View::npos && l.substr(0, colon).find(' ') == View::npos) {
        out += l;
        out += '\n';
        while (n + 1 < lines.size() && contains(lines[n + 1], " = phi ")) emit(lines[++n]);
        beginBlock();
        continue;
      }
      if (startsWith(l, "    ") || l.empty() || startsWith(l, "  ]")) {
        emit(l);
        continue;
      } // cases of a switch
      instruction(l);
    }
    appendTables();
    return std::move(out);
  }
  void table(const char *name, const std::vector<uint32_t> &v) {
    size_t n = v.empty() ? 1 : v.size();
    out += "@" + std::string(name) + " = dso_local constant [" + std::to_string(n) + " x i32] [";
    for (size_t i = 0; i < n; ++i) out += (i ? ", i32 " : "i32 ") + std::to_string(v.empty() ? 0 : v[i]);
    out += "], align 4\n";
  }
  void appendTables() {
    table("sm_block_costs", costs);
    table("sm_site_lines", siteLines);
    table("sm_table_sizes", {static_cast<uint32_t>(costs.size() / SM_COSTS), static_cast<uint32_t>(siteLines.size())});
    if (check)
      out += "declare void @sm_check_device(ptr, i32, i32)\ndeclare void @sm_check_threadgroup(ptr, i32, i32)\ndeclare "
             "void @sm_check_generic(ptr, i32, i32)\ndeclare void @sm_check_range(ptr, i64, i32, i32)\n"
             "declare ptr @sm_redirect_device(ptr, i32, i32)\ndeclare ptr @sm_redirect_threadgroup(ptr, i32, i32)\n"
             "declare ptr @sm_redirect_generic(ptr, i32, i32)\ndeclare ptr @sm_redirect_range(ptr, i64, i32, i32)\n";
  }
};
} // namespace

std::string instrument(const std::string &ir, bool check, bool redirect) {
  Instrumenter i;
  i.ir = ir;
  i.check = check;
  i.redirects = check && redirect;
  return i.run();
}
} // namespace softmetal
