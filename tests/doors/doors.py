"""The ways into the library. A door takes a case and gives back what it got."""

from __future__ import annotations

from typing import Any

import arguments
import numpy as np
from case import Case

import umfa


class Door:
    """A way to make a call."""

    name = ""
    double = False
    """Everything is FP64."""
    gives_output = True
    """Whether backward is given O; otherwise it computes what it needs of it."""

    def missing(self) -> str | None:
        """Why the door is not here, or None."""
        return None

    def cannot(self, case: Case) -> str | None:
        """Why a call cannot be said at this door, or None."""
        raise NotImplementedError

    def view(self, case: Case) -> Case:
        """The case whose results are expected: another one where the door casts."""
        return case

    def output(self, case: Case) -> str:
        """The precision of the result."""
        return case.call.output

    def expected(self, case: Case) -> str:
        """The precision of the result that is expected."""
        return "fp32" if self.double else self.output(case)

    def gradient(self, _case: Case, _name: str) -> str:
        """The precision of a gradient."""
        return "fp32"

    def forward(self, case: Case) -> dict[str, Any]:
        """output, and logsumexp where the door has it."""
        raise NotImplementedError

    def backward(self, _case: Case) -> dict[str, Any] | None:
        """Gradients by name; None: this door has none."""
        return None


def key_lengths() -> bool:
    """Whether the package has the argument."""
    return ", seqlens_k=" in (umfa.attention.__text_signature__ or "")


class Python(Door):
    """A door whose calls are said by arguments, which can also be spoiled."""

    prepared = False
    """Whether integers are handed over; otherwise the door quantizes floats."""
    heads_first = False
    """What comes first in rank 3."""

    def cannot(self, case: Case) -> str | None:
        call = case.call
        if call.rank == 5:
            return "no rank 5"
        if call.key_lengths is not None and not key_lengths():
            return "no lengths of keys"
        if self.prepared and call.integer and (call.rank, call.layout) != (4, "BHND"):
            return "tensors are quantized in rank 4"
        if not self.prepared and call.integer and (reason := arguments.quantizes(case)):
            return reason
        return arguments.ranks_fit(case, heads_first=self.heads_first)

    def arguments(self, case: Case) -> dict[str, Any]:
        """In the names of umfa.attention; `spoiled` takes them too."""
        result = arguments.operands(case, heads_first=self.heads_first, prepared=self.prepared)
        result |= arguments.options(case)
        if not self.prepared and case.call.integer:
            result |= arguments.quantizing(case)
        return result

    def call(self, values: dict[str, Any]) -> Any:
        """Calls with what arguments() said."""
        raise NotImplementedError

    def forward(self, case: Case) -> dict[str, Any]:
        values = {**self.arguments(case), "return_logsumexp": True}
        out, logsumexp = self.call(values)
        return {
            "output": arguments.plain(out, case, case.call.dv),
            "logsumexp": np.asarray(logsumexp),
        }


class Attention(Python):
    name = "umfa.attention"
    prepared = True

    def call(self, values: dict[str, Any]) -> Any:
        return umfa.attention(**values)


class Explain(Attention):
    """Says what would happen: refuses what the call refuses."""

    name = "umfa.explain"

    def call(self, values: dict[str, Any]) -> Any:
        text, size = umfa.explain(**values), umfa.workspace_size(**values)
        assert text
        assert size >= 0

    def forward(self, case: Case) -> dict[str, Any]:
        self.call(self.arguments(case))
        return {}


class QuantizedAttention(Python):
    name = "umfa.quantized_attention"

    def cannot(self, case: Case) -> str | None:
        return super().cannot(case) if case.call.integer else "nothing is quantized"

    def call(self, values: dict[str, Any]) -> Any:
        return umfa.quantized_attention(**values)


class FlashAttention(Python):
    name = "umfa.flash_attention_forward"
    prepared = True

    def __init__(self) -> None:
        self.context = umfa.MFAContext()

    def call(self, values: dict[str, Any]) -> Any:
        return umfa.flash_attention_forward(self.context, **values)

    def backward(self, case: Case) -> dict[str, Any] | None:
        values = self.arguments(case)
        out, logsumexp = self.call({**values, "return_logsumexp": True})
        q, k, v = (values.pop(name) for name in "qkv")
        given = case.grad_output.astype(np.asarray(out).dtype)
        given = arguments.shaped(given, case, heads_first=self.heads_first)
        more = {}
        if case.call.mask is not None and case.call.mask.learnt:
            more["grad_mask"] = True
        if case.call.sinks:
            more["grad_sinks"] = True
        found = umfa.flash_attention_backward(
            self.context, given, q, k, v, out, logsumexp, **more, **values
        )
        names = ["q", "k", "v", *(name.removeprefix("grad_") for name in more)]
        result = dict(zip(names, found))
        if case.call.layout == "BNHD":
            for name in "qkv":
                x = np.asarray(result[name])
                result[name] = (x[None] if case.call.rank == 3 else x).swapaxes(1, 2)
        return result


_NAMES = {
    "q": "query",
    "k": "key",
    "v": "value",
    "causal": "is_causal",
    "softmax_scale": "scale",
}
"""PyTorch's names of arguments."""


class Sdpa(Python):
    """PyTorch's signature, on NumPy arrays."""

    name = "umfa.MetalSDPA"
    heads_first = True

    def cannot(self, case: Case) -> str | None:
        call = case.call
        if call.lengths is not None or call.key_lengths is not None:
            return "lengths of sequences"
        if call.layout != "BHND":
            return "the order of dimensions is PyTorch's"
        if call.causal and call.mask is not None:
            return "a mask and is_causal"
        if call.diagonal and call.alignment != "top_left":
            return "the diagonal is at the top left"
        if call.window is not None or call.slopes or call.sinks or call.softcap:
            return "options that PyTorch does not have"
        dtypes = {case.floats[name].dtype for name in "qkv"}
        if len(dtypes) > 1:
            return "several dtypes"
        if call.integer and (reason := arguments.quantizes(case)):
            return reason
        return arguments.ranks_fit(case, heads_first=True)

    def output(self, case: Case) -> str:
        # Operands that are quantized by the call are FP32 before.
        return "fp32" if case.call.integer else case.call.output

    def arguments(self, case: Case) -> dict[str, Any]:
        values = super().arguments(case)
        values.pop("alignment", None)
        if case.call.heads != case.call.kv_heads:
            values["enable_gqa"] = True
        return values

    _CALL = ("query", "key", "value", "attn_mask", "is_causal", "scale", "enable_gqa")

    def named(self, values: dict[str, Any]) -> dict[str, Any]:
        """With PyTorch's names."""
        return {_NAMES.get(name, name): value for name, value in values.items()}

    def call(self, values: dict[str, Any]) -> Any:
        values = self.named(values)
        made = {name: values.pop(name) for name in list(values) if name not in self._CALL}
        return umfa.MetalSDPA(**made)(**values)

    def forward(self, case: Case) -> dict[str, Any]:
        out = self.call(self.arguments(case))
        return {"output": arguments.plain(out, case, case.call.dv)}


def numpy_doors() -> list[Door]:
    return [Attention(), QuantizedAttention(), FlashAttention(), Sdpa(), Explain()]
