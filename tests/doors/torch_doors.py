"""The doors of umfa.torch: eager, under autocast, mapped, with torch.func, compiled."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import arguments
import ml_dtypes
import numpy as np
from case import Case
from doors import Sdpa

try:
    import torch
except ImportError as problem:
    torch = None  # type: ignore[assignment]
    _MISSING = f"PyTorch is not installed ({problem})"


def tensor(x: np.ndarray) -> Any:
    """A tensor over the memory of an array."""
    if x.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def array(x: Any) -> np.ndarray:
    return x.detach().to(torch.float32).numpy()


class Eager(Sdpa):
    """Options that PyTorch does not have are keywords here."""

    name = "umfa.torch"
    grads = True

    def missing(self) -> str | None:
        return _MISSING if torch is None else None

    def cannot(self, case: Case) -> str | None:
        call = case.call
        if call.causal and call.mask is not None:
            return "a mask and is_causal"
        if (
            call.diagonal
            and call.alignment != "top_left"
            and (call.causal or case.rows != case.keys)
        ):
            return "the diagonal is at the top left"
        if call.key_lengths is not None:
            return "no lengths of keys"
        if call.lengths is not None and call.rank != 4:
            return "packed sequences of rank 3"
        if call.rank == 3 and call.layout != "BHND":
            return "rank 3 is PyTorch's"
        dtypes = {case.floats[name].dtype for name in "qkv"}
        if len(dtypes) > 1:
            return "several dtypes"
        if call.integer and (reason := arguments.quantizes(case)):
            return reason
        return arguments.ranks_fit(case, heads_first=True)

    def arguments(self, case: Case) -> dict[str, Any]:
        values = super().arguments(case)
        call = case.call
        if call.diagonal and not call.causal:
            values["alignment"] = call.alignment
        return {
            name: tensor(value) if isinstance(value, np.ndarray) else value
            for name, value in values.items()
        }

    def gradient(self, case: Case, name: str) -> str:
        call = case.call
        if name == "sinks":
            return "fp32"
        if name == "mask":
            return call.mask.precision if call.mask else "fp32"
        return self.output(case)

    @cached_property
    def attend(self) -> Any:
        import umfa.torch

        return umfa.torch.scaled_dot_product_attention

    def call(self, values: dict[str, Any]) -> Any:
        return self.attend(**self.named(values))

    def forward(self, case: Case) -> dict[str, Any]:
        out = array(self.call(self.arguments(case)))
        return {"output": arguments.plain(out, case, case.call.dv)}

    def _leaves(self, case: Case, values: dict[str, Any]) -> dict[str, Any]:
        """What has a gradient: by the names of the expected ones."""
        leaves = {name: values[name] for name in "qkv"}
        if case.call.mask is not None and case.call.mask.learnt:
            leaves["mask"] = values["attn_mask"]
        if values.get("sinks") is not None:
            leaves["sinks"] = values["sinks"]
        for leaf in leaves.values():
            leaf.requires_grad_()
        return leaves

    def backward(self, case: Case) -> dict[str, Any] | None:
        if not self.grads:
            return None
        values = self.arguments(case)
        leaves = self._leaves(case, values)
        out = self.call(values)
        out.backward(self._given(case, out))
        return self._plain(case, {name: leaf.grad for name, leaf in leaves.items()})

    def _given(self, case: Case, out: Any) -> Any:
        given = tensor(np.ascontiguousarray(case.grad_output.astype(np.float32)))
        shaped = arguments.shaped(given.numpy(), case, heads_first=True)
        return torch.from_numpy(np.ascontiguousarray(shaped)).to(out.dtype)

    def _plain(self, case: Case, gradients: dict[str, Any]) -> dict[str, Any]:
        result = {}
        for name, gradient in gradients.items():
            assert gradient is not None, f"{name} has no gradient"
            x = array(gradient)
            result[name] = x.swapaxes(1, 2) if name in "qkv" and case.call.layout == "BNHD" else x
        return result


class Autocast(Eager):
    """FP32 operands that PyTorch casts to BF16."""

    name = "autocast"

    def cannot(self, case: Case) -> str | None:
        call = case.call
        if call.integer or {x.precision for x in call.operands.values()} != {"fp32"}:
            return "operands that are not FP32"
        if call.mask is not None and call.mask.precision != "bool":
            return "a float mask, which is cast too"
        if call.poison:
            return "poison"
        return super().cannot(case)

    def view(self, case: Case) -> Case:
        cast = {name: replace(x, precision="bf16") for name, x in case.call.operands.items()}
        return Case(replace(case.call, **cast))

    def output(self, _case: Case) -> str:
        return "bf16"

    def call(self, values: dict[str, Any]) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return super().call(values)


class Mapped(Eager):
    """vmap over the batch, whose dimension is somewhere."""

    name = "vmap"
    grads = False

    def cannot(self, case: Case) -> str | None:
        call = case.call
        if call.rank != 4 or call.layout != "BHND" or call.lengths is not None:
            return "rank 3 inside"
        if case.batch == 0:
            return "nothing to map"
        if call.slopes == "bh":
            return "slopes of a batch"
        if any(x.integer and x.granularity == "tensor" for x in call.operands.values()):
            return "a scale for each sample"
        return super().cannot(case)

    def call(self, values: dict[str, Any]) -> Any:
        rng = np.random.default_rng(values["q"].numel())
        mapped: dict[str, Any] = {}
        where: dict[str, int] = {}
        for name in ("q", "k", "v", "attn_mask"):
            x = values.pop(name, None)
            if x is None:
                continue
            at = None if name == "attn_mask" and (x.ndim < 4 or x.shape[0] == 1) else 0
            if at == 0:
                at = int(rng.integers(0, x.ndim))
                x = x.movedim(0, at)
            elif x.ndim == 4:
                x = x[0]
            mapped[name], where[name] = x, at  # type: ignore[assignment]
        names = list(mapped)

        def one(*tensors: Any) -> Any:
            return super(Mapped, self).call({**values, **dict(zip(names, tensors))})

        dims = tuple(where[name] for name in names)
        return torch.vmap(one, in_dims=dims)(*mapped.values())


class Functional(Eager):
    """torch.func.vjp."""

    name = "torch.func"

    def forward(self, case: Case) -> dict[str, Any]:
        return {"output": arguments.plain(array(self._vjp(case)[0]), case, case.call.dv)}

    def _vjp(self, case: Case) -> tuple[Any, Any]:
        values = self.arguments(case)
        q, k, v = (values.pop(name) for name in "qkv")
        return torch.func.vjp(
            lambda q, k, v: self.call({"q": q, "k": k, "v": v, **values}), q, k, v
        )

    def backward(self, case: Case) -> dict[str, Any] | None:
        out, pull = self._vjp(case)
        return self._plain(case, dict(zip("qkv", pull(self._given(case, out)))))


class Compiled(Eager):
    """Traced whole; run without a C++ compiler."""

    name = "torch.compile"
    grads = True

    @cached_property
    def attend(self) -> Any:
        import umfa.torch

        attend = umfa.torch.scaled_dot_product_attention
        torch._dynamo.reset()
        return torch.compile(attend, fullgraph=True, backend="aot_eager", dynamic=False)

    def forward(self, case: Case) -> dict[str, Any]:
        torch._dynamo.reset()
        return super().forward(case)


def torch_doors() -> list[Eager]:
    return [Eager(), Autocast(), Mapped(), Functional()]
