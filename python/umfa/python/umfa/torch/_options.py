"""Options of a call as an operator takes them: tensors, plain values, and a key for the rest.

The native module decides what is right, for all of umfa's functions: before the operator, and in a
graph when it runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from umfa import _native
from umfa._errors import InvalidArgument, InvalidType

TENSORS = ("attn_mask", "alibi_slopes", "sinks", "cu_seqlens_q", "cu_seqlens_k", "seqlens_k")

NAMES = (("is_causal", "causal"), ("scale", "softmax_scale"))
"""What PyTorch and `umfa.attention` call the same."""

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
    """The key of the other options: JSON, so that a graph means the same in any process."""
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
        options.update(_others(self.quantization))
        return options

    def shares_scales(self) -> bool:
        """Whether an operand gets one scale for all of its batch."""
        options = _others(self.quantization)

        def of(name: str, operand: str, default: Any) -> Any:
            value = options.get(name, default)
            return value.get(operand, default) if isinstance(value, dict) else value

        return any(
            of("precision", x, None) is not None and of("granularity", x, "tensor") == "tensor"
            for x in "qkv"
        )


@lru_cache(maxsize=1024)
def _others(key: str) -> Mapping[str, Any]:
    """The options of a key, parsed once."""
    return MappingProxyType(json.loads(key, strict=False) if key else {})


def plain(function: str, given: dict[str, Any], context: int) -> Plain:
    """An operator's plain arguments from the keywords of a function, which say what is wrong."""
    options = {name: _named(value) for name, value in given.items() if name not in TENSORS}
    if options.pop("out", None) is not None:
        raise InvalidArgument(
            "out: not supported by umfa.torch, whose results have gradients; expected "
            "umfa.attention under torch.no_grad()"
        )
    clip = boolean(options.pop("clip", False), "clip")
    if torch.compiler.is_compiling():
        # The same names; values, which may be symbols, are looked at when the graph runs.
        for theirs, ours in NAMES:
            if theirs in options and ours in options:
                raise InvalidArgument(
                    f"{theirs}: given together with {ours}, expected one of them: they are the same"
                )
            if theirs in options:
                options[ours] = options.pop(theirs)
        if options.get("layout", "BHND") not in ("BHND", "BNHD"):  # which no kernel sees
            raise InvalidArgument(f'layout: {options["layout"]!r}, expected "BHND" or "BNHD"')
    else:
        options = _native._check_options(function, options)
    left, right = _window(options.pop("window", None))
    return Plain(
        causal=options.pop("causal", False),
        softmax_scale=options.pop("softmax_scale", None),
        window_left=left,
        window_right=right,
        softcap=options.pop("softcap", None) or 0.0,
        alignment=options.pop("alignment", None) or "",
        compute=options.pop("compute", "exact"),
        layout=options.pop("layout", "BHND"),
        clip=clip,
        quantization=_key(options),
        context=context,
    )


def boolean(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return value
    raise InvalidType(f"{name}: {value!r}, expected True or False")


def _named(value: Any) -> Any:
    """PyTorch's dtypes by their names, also in a mapping."""
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, dict):
        return {key: _named(inner) for key, inner in value.items()}
    return value


def _window(window: Any) -> tuple[int, int]:
    pair = window if isinstance(window, (tuple, list)) else (window, window)
    if len(pair) != 2:
        raise InvalidType(f"window: {window!r}, expected an int or (left, right)")
    left, right = (-1 if side is None else side for side in pair)
    return left, right


def _key(options: dict[str, Any]) -> str:
    items = [
        f"{_json(name)}: {_json(options[name])}"
        for name in sorted(options)
        if options[name] is not None
    ]
    return "{" + ", ".join(items) + "}" if items else ""


def _json(value: Any) -> str:
    """JSON by operations that torch.compile traces; other types as text, refused later."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, dict):
        inner = [f"{_json(name)}: {_json(value[name])}" for name in sorted(value)]
        return "{" + ", ".join(inner) + "}"
    if value is None:
        return "null"
    text = value if isinstance(value, str) else repr(value)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def parameter(value: Any, name: str, q: Tensor) -> Tensor | None:
    """One number for each head, of any dtype, in the one that is computed in."""
    if value is None:
        return None
    return as_tensor(value, name).to(torch.float64 if q.dtype == torch.float64 else torch.float32)


def lengths(value: Any, name: str) -> Tensor | None:
    """Lengths of sequences, cumulated or not."""
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
