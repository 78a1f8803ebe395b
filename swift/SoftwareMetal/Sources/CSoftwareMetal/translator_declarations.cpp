// Threadgroup variables and function constants.
#include "translator.hpp"
#include <cstdlib>

namespace softmetal {

bool Translator::threadgroupVariables(size_t &i) {
  if (scopes.back() != Scope::block && scopes.back() != Scope::function) return false;
  size_t end = i + 1, name = 0;
  while (t[end].is("const") || t[end].is("volatile") || t[end].is("static")) ++end;
  size_t type = end;
  for (; end + 1 < t.size(); ++end) {
    if (t[end].is("<")) {
      size_t e = closingAngle(t, end);
      if (e == end) return false;
      end = e - 1;
      continue;
    }
    if (t[end].is("::")) continue;
    if (!t[end].isName()) break;
    name = end;
  }
  if (!name || name == type || t[end].is("*") || t[end].is("&") || t[end].is("(") || t[end].is(")") || t[end].is(">"))
    return false;
  std::string spelled = text(type, name);
  size_t stop = name;
  std::string code;
  for (;;) {
    size_t after = name + 1;
    while (t[after].is("[")) after = closing(t, after);
    if (t[after].is("=") || t[after].is("{")) {
      error(t[name], "variables in the threadgroup address space cannot have an initializer");
      return false;
    }
    if (!inKernel) {
      error(t[name], "variables in the threadgroup address space can only be declared in a kernel function");
      return false;
    }
    std::string id = std::to_string(variables++), alias = "sm_t" + id;
    if (variables > 256) {
      error(t[name], "more than 256 threadgroup variables");
      return false;
    }
    u.variables.push_back({variables - 1, currentFunction});
    std::string dims;
    for (size_t k = name + 1; k < after; ++k) dims += spelling(k);
    code += "typedef " + spelled + " " + alias + dims + "; __local " + alias + " &" + spelling(name) +
            " = sm_threadgroup<" + id + ", " + alias + ">(); ";
    stop = after;
    if (!t[after].is(",")) break;
    name = after + 1;
  }
  if (!t[stop].is(";")) return false;
  if (stop - i > 0) out += t[i].space + code + newlines(i + 1, stop);
  i = stop; // the ';' follows from the loop
  return true;
}
bool Translator::functionConstant(size_t &i) {
  size_t k = i + 1;
  while (!(t[k].is(";") || t[k].is("=") || t[k].is("(") || t[k].is("{")) && !attributeAt(k) && k + 1 < t.size()) ++k;
  if (!attributeAt(k) || !t[k + 2].is("function_constant")) return false;
  FunctionConstant c;
  c.name = t[k - 1].text;
  c.type = text(i + 1, k - 1);
  size_t e = closing(t, k + 3);
  std::string index = text(k + 4, e - 1);
  char *rest = nullptr;
  c.index = static_cast<int>(strtol(index.c_str(), &rest, 0));
  if ((rest && *rest) || index.empty())
    error(t[k + 2], "'function_constant' needs an integer index, found '" + index + "'");
  for (auto &o : u.constants)
    if (o.index == c.index)
      error(t[k - 1], "function constant index " + index + " is used by '" + o.name + "' already");
  for (size_t j = 0; j + 2 < t.size(); ++j)
    if (t[j].is("is_function_constant_defined") && t[j + 2].text == c.name) c.optional = true;
  u.constants.push_back(c);
  out += t[i].space + "static __global const " + c.type + " " + c.name + " = sm_function_constant<" + c.type + ">(" +
         index + "); static __global const bool sm_defined" + index + " = sm_constant_defined(" + index + ")" +
         newlines(i + 1, closing(t, k));
  i = closing(t, k) - 1;
  return true;
}
void Translator::noteConstant(size_t i) {
  size_t name = 0, k = i;
  for (; k + 1 < t.size() && !t[k].is(";") && !t[k].is("=") && !t[k].is("(") && !t[k].is("{") && !t[k].is("["); ++k)
    if (t[k].isName()) name = k;
  if (!name || !t[k].is("=")) return;
  std::set<std::string> used;
  for (; k + 1 < t.size() && !t[k].is(";"); ++k)
    if (t[k].isName() && constantNames.count(t[k].text)) used.insert(t[k].text);
  if (!used.empty()) {
    constantNames.insert(t[name].text);
    u.mentions[t[name].text] = used;
  }
}

} // namespace softmetal
