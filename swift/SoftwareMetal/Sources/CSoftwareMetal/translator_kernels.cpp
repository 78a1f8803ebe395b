// Kernels: their parameters, instantiations and entry points.
#include "translator.hpp"
#include <cstdlib>

namespace softmetal {

std::vector<Argument> Translator::parameters(size_t open) {
  std::vector<Argument> list;
  size_t end = closing(t, open) - 1;
  if (end == open + 1 || (end == open + 2 && t[open + 1].is("void"))) return list;
  Argument a;
  bool any = false, pointer = false;
  size_t first = open + 1;
  auto finish = [&](size_t stop) {
    if (!any) return;
    a.spelledType = text(first, stop);
    if (a.attribute.empty()) {
      bool memory = pointer && !a.spelledType.empty();
      if (!memory)
        error(t[first], "kernel parameter '" + a.name +
                            "' has no attribute: pass values in buffers, or name what the thread asks for");
      else a.attribute = a.spelledType.find("__local") != std::string::npos ? "threadgroup" : "buffer";
    }
    list.push_back(a);
    a = Argument();
    any = pointer = false;
    first = stop + 1;
  };
  for (size_t i = open + 1; i < end; ++i) {
    if (attributeAt(i)) {
      size_t e = closing(t, i);
      for (size_t k = i + 2; k + 2 < e; ++k) {
        if (!t[k].isName()) continue;
        size_t stop = k + 1;
        if (t[k + 1].is("(")) { stop = closing(t, k + 1); }
        if (t[k].is("function_constant")) {
          k = stop - 1;
          continue;
        }
        a.attribute = t[k].text;
        if (stop > k + 1) {
          a.indexText = text(k + 2, stop - 1);
          char *rest = nullptr;
          long v = strtol(a.indexText.c_str(), &rest, 0);
          if (rest && !*rest) a.index = static_cast<int>(v);
        }
        k = stop - 1;
      }
      i = e - 1;
      continue;
    }
    if (t[i].is("<")) {
      size_t e = closingAngle(t, i);
      if (e > i) i = e - 1;
      continue;
    }
    if (t[i].is("(")) {
      i = closing(t, i) - 1;
      continue;
    }
    if (t[i].is(",")) {
      finish(i);
      continue;
    }
    any = true;
    if (t[i].is("*") || t[i].is("&")) pointer = true;
    if (t[i].is("constant")) a.constantSpace = true;
    if (t[i].isName()) a.name = t[i].text;
  }
  finish(end);
  std::set<int> used;
  for (auto &p : list)
    if (p.attribute == "buffer" && p.index >= 0) used.insert(p.index);
  for (auto &p : list) {
    if (p.attribute == "buffer" && p.indexText.empty()) {
      int n = 0;
      while (used.count(n)) ++n;
      p.index = n;
      used.insert(n);
      p.indexText = std::to_string(n);
    }
    if (p.attribute == "threadgroup" && p.indexText.empty()) {
      p.index = 0;
      p.indexText = "0";
    }
    p.writable = !p.constantSpace && p.spelledType.find("const ") == std::string::npos;
  }
  return list;
}
void Translator::checkIndices(const Token &at, const std::string &name, const std::vector<Argument> &list) {
  std::set<std::string> seen;
  for (auto &a : list) {
    if (a.indexText.empty()) continue;
    if (!seen.insert(a.attribute + a.indexText).second)
      error(at, "cannot reserve '" + a.attribute + "' resource location at index " + a.indexText + ": kernel '" + name +
                    "' uses it twice");
    if (a.index > 30) error(at, "'" + a.attribute + "' attribute parameter is out of bounds: must be between 0 and 30");
  }
}
std::string Translator::qualified(const std::string &name) const {
  std::string s;
  for (auto &n : namespaces) s += n + "::";
  return s + name;
}
void Translator::kernelDeclaration(size_t name, bool isTemplate, bool isInstantiation, const std::string &hostName,
                                   int threads) {
  size_t open = name + 1;
  std::string arguments;
  if (t[open].is("<")) {
    size_t e = closingAngle(t, open);
    arguments = text(open, e);
    open = e;
  }
  const std::string &base = t[name].text;
  Kernel k;
  k.baseName = base;
  k.line = t[name].line;
  k.hostName = hostName.empty() ? base : hostName;
  k.function = qualified(base) + arguments;
  if (isInstantiation) {
    auto s = signatures.find(base);
    if (s == signatures.end()) {
      error(t[name], "explicit instantiation of '" + base + "', which is not a kernel template");
      return;
    }
    k.arguments = s->second;
    k.maxThreads = threads ? threads : maxThreads[base];
    if (hostName.empty()) k.hostName = base + arguments;
  } else {
    k.arguments = parameters(open);
    checkIndices(t[name], base, k.arguments);
    signatures[base] = k.arguments;
    maxThreads[base] = threads;
    k.maxThreads = threads;
    if (isTemplate) return;
  }
  for (auto &o : u.kernels)
    if (o.hostName == k.hostName) {
      error(t[name], "redefinition of kernel '" + k.hostName + "'");
      return;
    }
  u.kernels.push_back(k);
}
void Translator::findKernel(size_t i) {
  size_t start = i;
  bool isTemplate = false, isInstantiation = false, isKernel = false;
  std::string host;
  int threads = 0;
  if (t[i].is("template")) {
    if (t[i + 1].is("<")) {
      isTemplate = true;
      i = closingAngle(t, i + 1);
      if (i == start + 1) return;
    } else {
      isInstantiation = true;
      ++i;
    }
  }
  size_t name = 0;
  for (; i + 1 < t.size(); ++i) {
    if (attributeAt(i)) {
      size_t e = closing(t, i);
      for (size_t k = i + 2; k < e; ++k) {
        if (t[k].is("kernel")) isKernel = true;
        if (t[k].is("vertex") || t[k].is("fragment")) error(t[k], "the software device runs compute kernels only");
        if (t[k].is("host_name")) // neighbouring string literals are one: macros build names that way
          for (size_t j = k + 2; t[j].kind == Token::string && t[j].text.size() > 1; ++j)
            host += t[j].text.substr(1, t[j].text.size() - 2);
        if (t[k].is("max_total_threads_per_threadgroup")) threads = atoi(t[k + 2].text.c_str());
      }
      i = e - 1;
      continue;
    }
    if (t[i].is("__attribute__") && t[i + 1].is("(")) {
      i = closing(t, i + 1) - 1;
      continue;
    }
    if (t[i].is("kernel")) {
      isKernel = true;
      continue;
    }
    if (t[i].is("decltype") && t[i + 1].is("(")) {
      i = closing(t, i + 1) - 1;
      continue;
    }
    if (t[i].is("(") || t[i].is(";") || t[i].is("{") || t[i].is("=")) break;
    if (t[i].is("<")) {
      size_t e = closingAngle(t, i);
      if (e == i) break;
      i = e - 1;
      continue;
    }
    if (t[i].isName()) name = i;
  }
  if (!isKernel || !name) return;
  if (!isInstantiation && !(name && t[name - 1].is("void")))
    error(t[name], "kernel '" + t[name].text + "' must return void");
  kernelDeclaration(name, isTemplate, isInstantiation, host, threads);
  if (!isInstantiation) { pendingKernel = true; }
}
void Translator::entries() {
  static const std::map<std::string, std::string> positions = {
      {"thread_position_in_grid", "l->threadInGrid"},
      {"thread_position_in_threadgroup", "l->threadInGroup"},
      {"threadgroup_position_in_grid", "l->groupInGrid"},
      {"threads_per_threadgroup", "l->groupSize"},
      {"dispatch_threads_per_threadgroup", "l->nominalSize"},
      {"threadgroups_per_grid", "l->groups"},
      {"threads_per_grid", "l->gridSize"},
      {"grid_size", "l->gridSize"},
      {"thread_index_in_threadgroup", "&l->threadIndex"},
      {"thread_index_in_simdgroup", "&l->lane"},
      {"simdgroup_index_in_threadgroup", "&l->simdIndex"},
      {"simdgroups_per_threadgroup", "&l->simdCount"},
      {"dispatch_simdgroups_per_threadgroup", "&l->nominalSimdCount"},
      {"threads_per_simdgroup", "32"},
      {"thread_execution_width", "32"},
      {"thread_index_in_quadgroup", "l->lane & 3"},
      {"quadgroup_index_in_threadgroup", "l->threadIndex >> 2"},
      {"quadgroups_per_threadgroup", "(l->groupSize[0] * l->groupSize[1] * l->groupSize[2] + 3) >> 2"},
      {"dispatch_quadgroups_per_threadgroup", "(l->nominalSize[0] * l->nominalSize[1] * l->nominalSize[2] + 3) >> 2"},
      {"grid_origin", "0"}};
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
          u.errors.push_back("program_source:" + std::to_string(k.line) + ":1: error: unknown attribute '" +
                             a.attribute + "' of kernel parameter '" + a.name + "'");
          continue;
        }
        bool pointer =
            p->second[0] == '&' || (p->second.compare(0, 3, "l->") == 0 && p->second.find(' ') == std::string::npos);
        e = pointer ? "sm_position<" + type + ">(" + p->second + ")" : "sm_scalar<" + type + ">(" + p->second + ")";
      }
      args += (i ? ", " : "") + e;
    }
    std::string id = std::to_string(n);
    out += "template <class F> SM_INLINE void sm_call" + id + "(__private SmLane *l) { " + k.function + "(" + args +
           "); }\n"
           "extern \"C\" __attribute__((visibility(\"default\"))) void sm_entry" +
           id + "(__private SmLane *l) { sm_call" + id + "<sm_signature<decltype(" + k.function + ")>>(l); }\n";
  }
}

} // namespace softmetal
