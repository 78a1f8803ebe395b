"""Cases as lines of a table: a name, and what tells the case from the plainest one.

`field=value` sets a field of Attention: a number, a text, `none`, or texts with commas between.
A field alone is true, `-field` is false; `fast` and `bottom_right` are the values of compute and alignment.
`role,role:layout` places tensors; `_` stands for the space in a layout's name.
"""

from __future__ import annotations

from typing import Any

from reference.problem import BOTTOM_RIGHT, FAST

from .attention import Attention

_VALUES = {"fast": ("compute", FAST), "bottom_right": ("alignment", BOTTOM_RIGHT)}
_TEXTS = ("q", "k", "v", "out", "grad", "call")


def _value(name: str, text: str) -> Any:
    if text == "none":
        return None
    if name == "wanted":
        return tuple(text.split(","))
    if name in _TEXTS:
        return text
    return float(text) if "." in text else int(text)


def row(line: str) -> Attention:
    """The case of a line."""
    name, *words = line.split()
    fields: dict[str, Any] = {}
    layouts: dict[str, str] = {}
    for word in words:
        if word in _VALUES:
            key, value = _VALUES[word]
            fields[key] = value
        elif word.startswith("-"):
            fields[word[1:]] = False
        elif "=" in word:
            key, text = word.split("=", 1)
            fields[key] = _value(key, text)
        elif ":" in word:
            roles, layout = word.split(":")
            layouts |= dict.fromkeys(roles.split(","), layout.replace("_", " "))
        else:
            fields[word] = True
    return Attention(name, layouts=layouts, **fields)


def rows(text: str) -> list[Attention]:
    """The cases of the lines that are not empty."""
    return [row(line) for line in text.splitlines() if line.strip()]
