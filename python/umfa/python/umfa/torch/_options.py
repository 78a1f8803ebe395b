"""Options of a call as an operator takes them: tensors, plain values, and the rest as text.

Nothing is checked here but what an operator could not carry: everything else reaches the native
module as it was given, which applies it or says what is wrong with it.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from umfa._errors import InvalidArgument, InvalidType

TENSORS = ("attn_mask", "alibi_slopes", "sinks", "cu_seqlens_q", "cu_seqlens_k")

SCHEMA = (
    "bool causal, float? softmax_scale, SymInt window_left, SymInt window_right, float softcap, "
    "str alignment, str compute, str layout, bool clip, str quantization, int context"
)
"""The plain arguments of the operators."""


class Plain(NamedTuple):
    """The values of `SCHEMA`, in its order."""

    causal: bool
    softmax_scale: float | None
    window_left: int
    """-1: no limit."""
    window_right: int
    softcap: float
    """0: none."""
    alignment: str
    """ "": not said."""
    compute: str
    layout: str
    """How the result is stored; the operators' tensors are [batch, heads, rows, columns]."""
    clip: bool
    """For the backward operator."""
    quantization: str
    """The other options, as the text of a Python literal; "" without any."""
    context: int
    """The number of a context; 0 is the default one."""

    def keywords(self) -> dict[str, Any]:
        """The keywords of `umfa.attention`."""
        options: dict[str, Any] = {
            "causal": self.causal,
            "softmax_scale": self.softmax_scale,
            "softcap": self.softcap or None,
            "compute": self.compute,
        }
        if (self.window_left, self.window_right) != (-1, -1):
            options["window"] = (self.window_left, self.window_right)
        if self.alignment:
            options["alignment"] = self.alignment
        if self.quantization:
            options.update(ast.literal_eval(self.quantization))
        return options

    def shares_scales(self) -> bool:
        """Whether an operand gets one scale for all of its batch."""
        options = ast.literal_eval(self.quantization) if self.quantization else {}

        def of(name: str, operand: str, default: Any) -> Any:
            value = options.get(name, default)
            return value.get(operand, default) if isinstance(value, dict) else value

        return any(
            of("precision", x, None) is not None and of("granularity", x, "tensor") == "tensor"
            for x in "qkv"
        )


def plain(options: dict[str, Any], context: int) -> Plain:
    """Takes an operator's plain arguments from `options`; what remains goes into the text."""
    rest = {name: value for name, value in options.items() if name not in TENSORS}
    if rest.pop("out", None) is not None:
        raise InvalidArgument(
            "out: not supported by umfa.torch, whose results have gradients; expected "
            "umfa.attention under torch.no_grad()"
        )
    left, right = _window(rest.pop("window", None))
    return Plain(
        causal=boolean(rest.pop("causal", False), "causal"),
        softmax_scale=_number(rest.pop("softmax_scale", None), "softmax_scale"),
        window_left=left,
        window_right=right,
        softcap=_number(rest.pop("softcap", None), "softcap") or 0.0,
        alignment=_text(rest.pop("alignment", None) or "", "alignment"),
        compute=_text(rest.pop("compute", "exact"), "compute"),
        layout=_text(rest.pop("layout", "BHND"), "layout"),
        clip=boolean(rest.pop("clip", False), "clip"),
        quantization=_encode(rest),
        context=context,
    )


def boolean(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return value
    if type(value).__name__.startswith("bool"):  # NumPy's
        return bool(value)
    raise InvalidType(f"{name}: {value!r}, expected True or False")


def _number(value: Any, name: str) -> float | None:
    if value is None or isinstance(value, float):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InvalidType(f"{name}: {value!r}, expected a number") from None


def _text(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    raise InvalidType(f"{name}: {value!r}, expected a string")


def _window(window: Any) -> tuple[int, int]:
    if window is None:
        return -1, -1
    pair = window if isinstance(window, (tuple, list)) else (window, window)
    if len(pair) != 2:
        raise InvalidType(f"window: {window!r}, expected an int or (left, right)")
    return _side(pair[0]), _side(pair[1])


def _side(reach: Any) -> int:
    if reach is None:
        return -1
    if isinstance(reach, bool) or not (isinstance(reach, int) or hasattr(reach, "__index__")):
        raise InvalidType(f"window: {reach!r}, expected an int or None")
    number = reach if isinstance(reach, int) else operator.index(reach)
    if number >= 2**63:
        raise InvalidArgument(f"window: {number}, expected less than 2**63, or -1 for no limit")
    return number


def _encode(options: dict[str, Any]) -> str:
    items = [
        f"{name!r}: {_literal(options[name], name)}"
        for name in sorted(options)
        if options[name] is not None
    ]
    return "{" + ", ".join(items) + "}" if items else ""


def _literal(value: Any, name: str) -> str:
    if isinstance(value, (dict, Mapping)):
        items = [f"{key!r}: {_literal(value[key], f'{name}[{key!r}]')}" for key in sorted(value)]
        return "{" + ", ".join(items) + "}"
    if isinstance(value, torch.dtype):
        value = str(value).removeprefix("torch.")
    elif type(value).__module__ == "numpy" and hasattr(value, "item"):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    raise InvalidType(
        f"{name}: {type(value).__name__}, expected a string, a number, or a mapping from "
        '"q", "k" and "v"'
    )


def parameter(value: Any, name: str) -> Tensor | None:
    """One number for each head, of any dtype, as the float32 tensor that operators take."""
    if value is None:
        return None
    tensor = as_tensor(value, name)
    return tensor.to(torch.float32)


def ends(value: Any, name: str) -> Tensor | None:
    """Cumulated sequence lengths."""
    return None if value is None else as_tensor(value, name)


def as_tensor(value: Any, name: str) -> Tensor:
    """A tensor as it is; another library's array, or numbers in a list, as a tensor."""
    if isinstance(value, Tensor):
        return value
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidType(
            f"{name}: {type(value).__name__}, expected a torch.Tensor or what torch.as_tensor takes"
        ) from None
