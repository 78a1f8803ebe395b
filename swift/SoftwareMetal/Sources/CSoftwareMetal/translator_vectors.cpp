// Vector types: construction, conversion and aliases.
#include "translator.hpp"

namespace softmetal {

size_t Translator::vectorTypeEnd(size_t i) const {
  if (!t[i].isName()) return i;
  if (t[i].is("metal") && t[i + 1].is("::")) {
    size_t e = vectorTypeEnd(i + 2);
    return e == i + 2 ? i : e;
  }
  if (isVectorName(t[i].text)) return i + 1;
  if (t[i].is("vec") && t[i + 1].is("<")) return closingAngle(t, i + 1);
  if (aliases.count(t[i].text) && !(i && t[i - 1].is("::"))) return i + 1;
  return i;
}
void Translator::collectAliases() {
  for (size_t i = 0; i + 3 < t.size(); ++i) {
    if ((t[i].is("typename") || t[i].is("class")) && t[i + 1].isName() &&
        (t[i + 2].is(",") || t[i + 2].is(">") || t[i + 2].is("=")) && i && (t[i - 1].is("<") || t[i - 1].is(",")))
      aliases.insert(t[i + 1].text);
    bool vectorish = false;
    if (t[i].is("using") && t[i + 1].isName() && t[i + 2].is("=")) {
      for (size_t k = i + 3; k < t.size() && !t[k].is(";"); ++k)
        vectorish = vectorish || vectorTypeEnd(k) > k || t[k].is("typename") || t[k].is("conditional_t");
      if (vectorish && !pointerAlias(i + 3)) aliases.insert(t[i + 1].text);
    } else if (t[i].is("typedef")) {
      size_t k = i + 1;
      for (; k < t.size() && !t[k].is(";"); ++k) vectorish = vectorish || vectorTypeEnd(k) > k || t[k].is("typename");
      if (vectorish && t[k - 1].isName() && !pointerAlias(i + 1)) aliases.insert(t[k - 1].text);
    }
    // references to a matrix's elements must stay true while the matrix changes
    if (t[i].is("thread_elements") && i > 1) {
      size_t k = i;
      while (k && !t[k].is(";") && !t[k].is("{") && !t[k].is("}")) {
        if (t[k].is("=") && k > 1 && t[k - 1].isName() && (t[k - 2].is("&") || t[k - 2].is("*")))
          u.heldReferences = true;
        --k;
      }
    }
  }
}
bool Translator::pointerAlias(size_t i) const {
  for (; i < t.size() && !t[i].is(";"); ++i) {
    if (t[i].is("*") || t[i].is("&") || t[i].is("(")) return true;
    if (t[i].is("<")) {
      size_t e = closingAngle(t, i);
      if (e > i) i = e - 1;
    }
  }
  return false;
}
std::string Translator::maker(size_t a, size_t b) const {
  std::string ty = text(a, b);
  return (isBool(a) ? "sm_boolean<" : "sm_make<") + ty + ">";
}
bool Translator::vectorExpression(size_t &i) {
  if (t[i].is("static_cast") && t[i + 1].is("<")) {
    size_t e = closingAngle(t, i + 1);
    if (e > i + 1 && !t[e - 2].is("&") && !t[e - 2].is("*")) {
      out += t[i].space + "sm_static_cast";
      return true;
    }
    return false;
  }
  if (t[i].is("(") && i + 3 < t.size()) { // a cast
    size_t e = vectorTypeEnd(i + 1);
    bool operandBefore =
        i && (t[i - 1].isName() ? !(t[i - 1].is("return") || t[i - 1].is("case") || t[i - 1].is("else"))
                                : t[i - 1].is(")") || t[i - 1].is("]") || t[i - 1].is(">"));
    if (e > i + 1 && t[e].is(")") && !operandBefore &&
        (t[e + 1].isName() || t[e + 1].kind == Token::number || t[e + 1].is("(") || t[e + 1].is("-") ||
         t[e + 1].is("~") || t[e + 1].is("*"))) {
      out += t[i].space + "sm_c<" + text(i + 1, e) + ">() ->* ";
      i = e;
      return true;
    }
    return false;
  }
  size_t e = vectorTypeEnd(i);
  if (e == i) return false;
  if (t[i].is("vec") && t[e - 1].is(">") && t[e - 2].is("64")) {
    out += t[i].space + "sm_fragment<" + text(i + 2, e - 3) + ">";
    i = e - 1;
    return true;
  }
  bool previousAllows =
      !i || !(t[i - 1].is("operator") || t[i - 1].is(".") || t[i - 1].is("->") || t[i - 1].is("~") ||
              t[i - 1].is("typename") || t[i - 1].is("class") || t[i - 1].is("struct") || t[i - 1].is("using"));
  if (!previousAllows) return false;
  bool body = scopes.back() == Scope::block || scopes.back() == Scope::function;
  if (t[e].is("(") &&
      (body || (i && (t[i - 1].is("=") || t[i - 1].is("return") || t[i - 1].is("(") || t[i - 1].is(","))))) {
    if (t[e + 1].is("*") || t[e + 1].is("&")) return false; // a function type
    out += t[i].space + maker(i, e);
    i = e - 1;
    return true;
  }
  if (body && t[e].isName() && t[e + 1].is("(")) { // T name(arguments);
    size_t c = closing(t, e + 1);
    if (t[c].is(";") || t[c].is(",")) {
      for (; t[c].is(",") && t[c + 1].isName() && t[c + 2].is("("); c = closing(t, c + 2))
        declarators[c + 1] = maker(i, e);
      out += t[i].space + text(i, e) + " " + spelling(e) + " = " + maker(i, e);
      i = e;
      return true;
    }
  }
  if (body && isBool(i) && e == i + 1 && t[e].isName() && t[e + 1].is("=") && !t[e + 2].is("{")) { // bool4 m = a < b;
    size_t c = e + 2;
    for (; c + 1 < t.size() && !t[c].is(";") && !t[c].is(","); ++c)
      if (t[c].is("(") || t[c].is("[") || t[c].is("{")) c = closing(t, c) - 1;
    out += t[i].space + t[i].text + " " + spelling(e) + " = " + maker(i, i + 1) + "(";
    for (size_t k = e + 2; k < c;) step(k);
    out += ")";
    i = c - 1;
    return true;
  }
  return false;
}

} // namespace softmetal
