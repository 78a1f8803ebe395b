"""A kernel's text, unedited, to CUDA C++ for msl_cuda.h.

The text is read as tokens: what is not listed here passes through, and is the C++ compiler's to
judge.
What CUDA has no likeness of is refused with the line.

    #include <metal_...>, using namespace metal     dropped (other includes: refused)
    kernel void f(...)                              extern "C" __global__; attributes become
    blockIdx, threadIdx
    device, thread, constant, threadgroup           dropped; constant becomes const
    threadgroup T x[n];                             __shared__ T x[n];
    constant T x = ...;  outside of functions       static constexpr
    [[threadgroup(0)]] parameter                    the dynamic shared memory
    v.xy                                            v.get_xy(), or v.set_xy() where it is assigned
    to
    #pragma clang loop unroll(...)                  #pragma unroll
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
HEADERS = ("msl_cuda.h", "msl_cuda_simd.h")

_TOKEN = re.compile(
    r"""
      (?P<comment>//[^\n]*|/\*.*?\*/)
    | (?P<directive>^[ \t]*\#(?:[^\n\\]|\\.)*(?:\\\n(?:[^\n\\]|\\.)*)*)
    | (?P<space>\n|[^\S\n]+)
    | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<number>\.?\d(?:[eEpP][+-]|[\w.])*)
    | (?P<name>[A-Za-z_]\w*)
    | (?P<mark>\[\[|\]\]|::|->|\+\+|--|<<=|>>=|[-+*/%&|^=!<>]=|&&|\|\||<<|>>|.)
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)

_SPACES = {"device", "constant", "thread", "threadgroup"}
_INCLUDES = {"metal_stdlib", "metal_simdgroup_matrix", "metal_simdgroup", "metal_math"}
_SWIZZLE = re.compile(r"[xyzw]{2,4}")
_ASSIGNMENTS = {"=", "+=", "-=", "*=", "/="}
_UNKNOWN = re.compile(
    r"(atomic_\w+|texture\w+|sampler|visible_function_table|vertex|fragment|intersector|object_data"
    r"|imageblock|ray_data|threadgroup_imageblock)"
)

_BLOCK = {
    "": "blockIdx.x",
    "2": "blockIdx.x, blockIdx.y",
    "3": "blockIdx.x, blockIdx.y, blockIdx.z",
}
_GRID = {"": "gridDim.x", "2": "gridDim.x, gridDim.y", "3": "gridDim.x, gridDim.y, gridDim.z"}
_THREADS = {"": "blockDim.x", "2": "blockDim.x, 1u", "3": "blockDim.x, 1u, 1u"}
_THREAD = {"": "threadIdx.x", "2": "threadIdx.x, 0u", "3": "threadIdx.x, 0u, 0u"}
_GLOBAL = "blockIdx.x * blockDim.x + threadIdx.x"
_IN_GRID = {"": _GLOBAL, "2": f"{_GLOBAL}, blockIdx.y", "3": f"{_GLOBAL}, blockIdx.y, blockIdx.z"}
# By Metal's attribute: the arguments of a constructor of the parameter's type, by its number of
# elements. Threadgroups have one
# dimension: the launcher sees to that.
ATTRIBUTES = {
    "threadgroup_position_in_grid": _BLOCK,
    "threadgroups_per_grid": _GRID,
    "threads_per_threadgroup": _THREADS,
    "thread_position_in_threadgroup": _THREAD,
    "thread_position_in_grid": _IN_GRID,
    "thread_index_in_threadgroup": {"": "threadIdx.x"},
    "simdgroup_index_in_threadgroup": {"": "threadIdx.x / 32"},
    "thread_index_in_simdgroup": {"": "threadIdx.x & 31"},
    "simdgroups_per_threadgroup": {"": "(blockDim.x + 31) / 32"},
    "threads_per_simdgroup": {"": "32"},
    "thread_execution_width": {"": "32"},
}


class Refused(ValueError):
    """The text has something that has no likeness in CUDA, or that is not known here."""


@dataclass(frozen=True)
class Token:
    kind: str
    text: str
    line: int

    @property
    def counts(self) -> bool:
        """Whether the compiler sees it."""
        return self.kind not in ("space", "comment")


@dataclass(frozen=True)
class Kernel:
    """What a launch has to know of a kernel."""

    name: str
    buffers: tuple[int, ...]
    """Metal's indices of the buffers, in the order of the CUDA parameters: all are pointers."""
    dynamic: bool = False
    """It uses the threadgroup memory of index 0, whose length the launch sets."""


@dataclass(frozen=True)
class Translation:
    source: str
    kernels: dict[str, Kernel] = field(default_factory=dict)

    def program(self) -> str:
        """With the headers: all that a compiler needs."""
        return f'{headers()}\nnamespace msl {{\n#line 1 "text"\n{self.source}\n}}\n'


@cache
def headers() -> str:
    return "\n".join((FOLDER / name).read_text() for name in HEADERS)


def tokens(text: str) -> list[Token]:
    result, line, at = [], 1, 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise Refused(f"line {line}: {text[at : at + 20]!r} is no token")
        result.append(Token(match.lastgroup, match.group(), line))
        line += match.group().count("\n")
        at = match.end()
    return result


def translate(text: str) -> Translation:
    return _Translator(tokens(text)).run()


class _Translator:
    def __init__(self, all_tokens: list[Token]) -> None:
        self.tokens = all_tokens
        self.at = 0
        self.depth = 0
        self.out: list[str] = []
        self.kernels: dict[str, Kernel] = {}

    # MARK: Tokens

    def look(self, at: int) -> tuple[int, str]:
        """Position and text of the first token from `at` that the compiler sees."""
        while at < len(self.tokens) and not self.tokens[at].counts:
            at += 1
        return at, self.tokens[at].text if at < len(self.tokens) else ""

    def behind(self, at: int) -> str:
        """The text of the last token before `at` that the compiler sees."""
        at -= 1
        while at >= 0 and not self.tokens[at].counts:
            at -= 1
        return self.tokens[at].text if at >= 0 else ""

    def closing(self, at: int) -> int:
        """The position of the bracket that closes the one at `at`."""
        pairs = {"(": ")", "{": "}", "[": "]"}
        opening, closing, depth = self.tokens[at].text, pairs[self.tokens[at].text], 0
        for i in range(at, len(self.tokens)):
            depth += {opening: 1, closing: -1}.get(self.tokens[i].text, 0)
            if depth == 0:
                return i
        raise self.refuse(self.tokens[at], f"{opening} is not closed")

    @staticmethod
    def refuse(token: Token, why: str) -> Refused:
        return Refused(f"line {token.line}: {why}")

    # MARK: Passes

    def run(self) -> Translation:
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            self.at += 1
            if token.kind == "directive":
                self.out.append(self.directive(token))
            elif token.kind == "name":
                self.out.append(self.name(token))
            elif token.text == "[[":
                self.attribute(token)
            else:
                self.depth += {"{": 1, "}": -1}.get(token.text, 0)
                self.out.append("" if token.kind == "comment" else token.text)
        return Translation("".join(self.out), self.kernels)

    def directive(self, token: Token) -> str:
        text = token.text.strip()
        include = re.fullmatch(r"#\s*include\s*<(\w+)>", text)
        if include and include.group(1) in _INCLUDES:
            return ""
        if text.startswith("#include"):
            raise self.refuse(token, f"{text} is not known")
        unroll = re.fullmatch(r"#\s*pragma\s+clang\s+loop\s+unroll\((full|disable|enable)\)", text)
        if unroll:
            return token.text[: token.text.index("#")] + (
                "#pragma unroll 1" if unroll.group(1) == "disable" else "#pragma unroll"
            )
        if re.match(r"#\s*pragma\s+(METAL|STDC)\b", text):
            # Contraction of products and sums is the compiler's option here: programs.options_of().
            return ""
        if re.match(r"#\s*(define|undef|if|ifdef|ifndef|elif|else|endif)\b", text):
            return token.text
        raise self.refuse(token, f"{text} is not known")

    def name(self, token: Token) -> str:
        text = token.text
        if text == "using" and self.is_using_metal():
            return ""
        if text in ("kernel", "struct") and text == "kernel":
            return self.kernel(token)
        if text in _SPACES:
            return self.space(token)
        if _UNKNOWN.fullmatch(text):
            raise self.refuse(token, f"{text} has no translation")
        if _SWIZZLE.fullmatch(text) and self.behind(self.at - 1) in (".", "->"):
            after = self.look(self.at)[1]
            if after == "(":
                return text
            return f"set_{text}()" if after in _ASSIGNMENTS else f"get_{text}()"
        if text == "metal" and self.look(self.at)[1] == "::":
            return "msl"
        return text

    def is_using_metal(self) -> bool:
        at, words = self.at, []
        for _ in range(3):
            at, word = self.look(at)
            words.append(word)
            at += 1
        if words == ["namespace", "metal", ";"]:
            self.at = at
            return True
        return False

    def space(self, token: Token) -> str:
        """An address space: of a variable, or of what a pointer or reference leads to."""
        if token.text == "constant" and self.depth == 0 and self.declares_a_constant():
            return "static constexpr"
        if token.text == "threadgroup" and self.declares_memory():
            return "__shared__"
        if token.text == "constant":
            return "" if "const" in (self.behind(self.at - 1), self.look(self.at)[1]) else "const"
        # The blank behind it goes too.
        if self.at < len(self.tokens) and self.tokens[self.at].text == " ":
            self.at += 1
        return ""

    def declares_a_constant(self) -> bool:
        at = self.at
        while True:
            at, word = self.look(at)
            if word in ("=", "{"):
                return True
            if word in ("&", "*", "(", ")", ",", ";", ""):
                return False
            at += 1

    def declares_memory(self) -> bool:
        """`threadgroup T x[n]` or `threadgroup T x`: no pointer, reference or cast."""
        at, angles = self.at, 0
        while True:
            at, word = self.look(at)
            angles += {"<": 1, ">": -1}.get(word, 0)
            if word in ("[", ";", "=") and angles == 0:
                return True
            if word in ("*", "&", "(", ")", "") or (word == "," and angles == 0):
                return False
            at += 1

    def attribute(self, token: Token) -> None:
        end, words = self.at, []
        while end < len(self.tokens) and self.tokens[end].text != "]]":
            words.append(self.tokens[end].text)
            end += 1
        raise self.refuse(token, f"[[{''.join(words)}]] is not known")

    # MARK: Kernels

    def kernel(self, token: Token) -> str:
        void, word = self.look(self.at)
        name_at, name = self.look(void + 1)
        if word != "void":
            raise self.refuse(token, f"a kernel returns {word}")
        open_at, bracket = self.look(name_at + 1)
        bounds = ""
        if bracket != "(":
            raise self.refuse(token, f"kernel {name} has no parameters")
        close = self.closing(open_at)
        body, brace = self.look(close + 1)
        if brace == "[[":
            end = next(i for i in range(body, len(self.tokens)) if self.tokens[i].text == "]]")
            words = "".join(t.text for t in self.tokens[body + 1 : end])
            limit = re.fullmatch(r"max_total_threads_per_threadgroup\((\d+)\)", words)
            if limit is None:
                raise self.refuse(token, f"[[{words}]] of kernel {name} is not known")
            bounds = f"__launch_bounds__({limit.group(1)}) "
            body, brace = self.look(end + 1)
        if brace != "{":
            raise self.refuse(token, f"kernel {name} has no body")
        parameters, prologue, indices, dynamic = self.parameters(open_at + 1, close)
        self.kernels[name] = Kernel(name, tuple(indices), dynamic)
        self.at = body + 1
        self.depth += 1
        # Lines stay where they were: messages of the compiler name those of the text.
        lines = sum(t.text.count("\n") for t in self.tokens[void:body])
        head = f'extern "C" __global__ {bounds}void {name}({", ".join(parameters)})'
        return head + "\n" * lines + "{ " + " ".join(prologue)

    def parameters(self, begin: int, end: int) -> tuple[list[str], list[str], list[int], bool]:
        parameters: list[tuple[int, str]] = []
        prologue: list[str] = []
        dynamic = False
        for part in self.split(begin, end):
            attribute, words = self.attribute_of(part)
            kind, number = attribute
            declared = " ".join(words)
            if kind == "buffer" and "&" in words:
                type_ = " ".join(w for w in words[: words.index("&")])
                name = words[-1]
                parameters.append((number, f"{type_} *{name}_at"))
                prologue.append(f"{type_} &{name} = *{name}_at;")
            elif kind == "buffer":
                parameters.append((number, declared))
            elif kind == "threadgroup":
                if number != 0:
                    raise self.refuse(
                        part[0], f"threadgroup memory of index {number}; only 0 is translated"
                    )
                dynamic = True
                type_ = " ".join(words[:-1])
                prologue.append(
                    f"MSL_DYNAMIC_MEMORY(dynamic_memory); {declared} = ({type_})dynamic_memory;"
                )
            else:
                type_, name = words[-2], words[-1]
                width = re.fullmatch(r"\w*?([23]?)", type_)
                values = ATTRIBUTES[kind].get(width.group(1) if width else "")
                if values is None:
                    raise self.refuse(part[0], f"[[{kind}]] of type {type_}")
                prologue.append(f"const {type_} {name} = {type_}({values});")
        parameters.sort()
        return [p for _, p in parameters], prologue, [n for n, _ in parameters], dynamic

    def split(self, begin: int, end: int) -> list[list[Token]]:
        parts: list[list[Token]] = [[]]
        depth = 0
        for token in self.tokens[begin:end]:
            depth += {"(": 1, "<": 1, "[[": 1, ")": -1, ">": -1, "]]": -1}.get(token.text, 0)
            if token.text == "," and depth == 0:
                parts.append([])
            elif token.counts:
                parts[-1].append(token)
        return [part for part in parts if part]

    def attribute_of(self, part: list[Token]) -> tuple[tuple[str, int], list[str]]:
        texts = [t.text for t in part]
        if "[[" not in texts or texts[-1] != "]]":
            raise self.refuse(part[0], f"the parameter {' '.join(texts)} has no attribute")
        at = texts.index("[[")
        words, attribute = texts[:at], texts[at + 1 : -1]
        if attribute[0] in ("buffer", "threadgroup") and len(attribute) == 4:
            key = (attribute[0], int(attribute[2]))
        elif attribute[0] in ATTRIBUTES and len(attribute) == 1:
            key = (attribute[0], 0)
        else:
            raise self.refuse(part[0], f"[[{''.join(attribute)}]] is not known")
        replaced = {"constant": "const", "device": "", "threadgroup": "", "thread": ""}
        kept = [replaced.get(w, w) for w in words]
        return key, [w for w in kept if w]
