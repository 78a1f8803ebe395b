"""The operators `umfa::attention` and `umfa::attention_backward`: what PyTorch knows of the engine.

Both take tensors of rank 4, [batch, heads, rows, columns] (or packed sequences with a batch of 1),
and `Plain` for the rest. PyTorch's dispatcher runs, from the outside inwards: batching rules
(`_vmap`), the autograd functions below, the kernels. What is not defined, forward-mode derivatives
and double backward, has a function too, which refuses it: without one, derivatives would be zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._C import _AutoDispatchBelowAutograd
from torch._C._functorch import (
    get_single_level_autograd_function_allowed,
    set_single_level_autograd_function_allowed,
)
from torch.autograd import forward_ad

from umfa import _native
from umfa._errors import Unsupported
from umfa.torch import _vmap
from umfa.torch._context import context_of
from umfa.torch._options import SCHEMA, TENSORS, Plain

LIBRARY = torch.library.Library("umfa", "FRAGMENT")
_EXTRAS = (
    "Tensor? attn_mask, Tensor? alibi_slopes, Tensor? sinks, Tensor? cu_seqlens_q, "
    "Tensor? cu_seqlens_k, Tensor? seqlens_k"
)
LIBRARY.define(
    f"attention(Tensor q, Tensor k, Tensor v, {_EXTRAS}, {SCHEMA}) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
LIBRARY.define(
    "attention_backward(Tensor grad_out, Tensor? grad_logsumexp, Tensor q, Tensor k, Tensor v, "
    f"Tensor out, Tensor logsumexp, {_EXTRAS}, {SCHEMA}, bool[] need) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
attention_op = torch.ops.umfa.attention.default
attention_backward_op = torch.ops.umfa.attention_backward.default

_EXTRA = len(TENSORS)
_TENSORS = 3 + _EXTRA
"""How many arguments of `attention` come before those of `Plain`."""


def _keywords(extras: tuple[Tensor | None, ...], plain: Plain) -> dict[str, Any]:
    options = plain.keywords()
    options.update((name, x.detach()) for name, x in zip(TENSORS, extras) if x is not None)
    return options


def _columns(x: Tensor) -> Tensor:
    """No columns are one of zeros: scores and outputs of 0."""
    return x.detach() if x.shape[-1] else x.new_zeros((*x.shape[:-1], 1))


def _check_options(plain: Plain) -> None:
    """Has the options checked where there is nothing to compute."""
    _native._check_options("attention", plain.keywords())


def _attention(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """Attention and its logsumexp."""
    extras, plain = rest[:_EXTRA], Plain(*rest[_EXTRA:])
    if 0 in q.shape[:3]:
        _check_options(plain)
        return _attention_fake(q, k, v, *rest)
    options = _keywords(extras, plain)
    if plain.layout == "BNHD" and v.shape[-1]:
        options["out"], _ = _attention_fake(q, k, v, *rest)
    out, logsumexp = _native.attention(
        _columns(q),
        _columns(k),
        _columns(v),
        context_of(plain.context),
        return_logsumexp=True,
        **options,
    )
    return out if v.shape[-1] else _attention_fake(q, k, v, *rest)[0], logsumexp


def _attention_fake(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    batch, heads, rows, _ = q.shape
    if Plain(*rest[_EXTRA:]).layout == "BNHD":
        out = q.new_empty((batch, rows, heads, v.shape[-1])).transpose(1, 2)
    else:
        out = q.new_empty((batch, heads, rows, v.shape[-1]))
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    return out, q.new_empty((batch, heads, rows), dtype=dtype)


def _attention_backward(
    grad_out: Tensor,
    grad_logsumexp: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    *rest: Any,
) -> tuple[Tensor, ...]:
    """Gradients of q, k, v, attn_mask and sinks in their dtypes; those not needed are empty."""
    extras, plain, need = rest[:_EXTRA], Plain(*rest[_EXTRA:-1]), rest[-1]
    operands = (q, k, v, extras[0], extras[2])
    if not logsumexp.numel():
        zeros = [torch.zeros(x.shape) for x, needed in zip(operands, need) if needed]
        return _results(operands, need, zeros)
    options = _keywords(extras, plain)
    if grad_logsumexp is not None:
        options["grad_lse"] = grad_logsumexp.detach()
    found = _native.flash_attention_backward(
        context_of(plain.context),
        _columns(grad_out),
        _columns(q),
        _columns(k),
        _columns(v),
        _columns(out),
        logsumexp.detach(),
        need=tuple(need[:3]),
        clip=plain.clip,
        grad_mask=need[3],
        grad_sinks=need[4],
        **options,
    )
    return _results(operands, need, [x for x in found if x is not None])


def _results(
    operands: tuple[Any, ...], need: list[bool], gradients: list[Tensor]
) -> tuple[Tensor, ...]:
    """One result for each operand: the next gradient where it is needed, else nothing."""
    left = iter(gradients)
    results: list[Tensor] = []
    for x, needed in zip(operands, need):
        if x is None or not needed:
            results.append(operands[0].new_empty(0))
        else:
            gradient = next(left)
            results.append(gradient[..., : x.shape[-1]].to(x.dtype))
    return tuple(results)


def _attention_backward_fake(
    grad_out: Tensor,
    grad_logsumexp: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    *rest: Any,
) -> tuple[Tensor, ...]:
    operands = (q, k, v, rest[0], rest[2])
    return tuple(
        x.new_empty(x.shape) if x is not None and needed else q.new_empty(0)
        for x, needed in zip(operands, rest[-1])
    )


class _Modes:
    """Whether derivatives are recorded: inside a function's forward they are switched off."""

    def __init__(self) -> None:
        self.gradients = torch.is_grad_enabled()
        self.tangents = torch._C._is_fwd_grad_enabled()

    @contextmanager
    def below_autograd(self) -> Iterator[None]:
        """The next kernel inwards, in the caller's modes: torch.func has autograd there again."""
        with (
            torch.set_grad_enabled(self.gradients),
            forward_ad._set_fwd_grad_enabled(self.tangents),
            _AutoDispatchBelowAutograd(),
        ):
            yield


def _refuse_forward_mode(ctx: Any, *_: Any) -> Any:
    raise NotImplementedError(
        "umfa::attention has no forward-mode derivative (jvp, jacfwd, linearize, hessian, "
        "forward_ad); expected reverse mode: backward, torch.func.grad, vjp or jacrev"
    )


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(modes: _Modes, *inputs: Any) -> Any:
        with modes.below_autograd():
            return attention_op(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        inputs = inputs[1:]
        ctx.plain = inputs[_TENSORS:]
        number = Plain(*ctx.plain).context
        ctx.context = context_of(number) if number else None  # which lives until backward
        ctx.save_for_backward(*inputs[:_TENSORS], *output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Any, grad_out: Tensor | None, grad_logsumexp: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        unused = (None,) * len(ctx.plain)
        if grad_out is None and grad_logsumexp is None:
            return (None,) * (1 + _TENSORS) + unused
        *inputs, out, logsumexp = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1:]
        if wanted[4]:
            raise Unsupported(
                "alibi_slopes: requires gradients, which attention does not have for it; expected "
                "alibi_slopes.detach()"
            )
        need = [wanted[index] for index in (0, 1, 2, 3, 5)]
        gradients = attention_backward_op(
            torch.zeros_like(out) if grad_out is None else grad_out,
            grad_logsumexp,
            *inputs[:3],
            out,
            logsumexp,
            *inputs[3:],
            *ctx.plain,
            need,
        )
        dq, dk, dv, dmask, dsinks = (x if needed else None for x, needed in zip(gradients, need))
        lengths = (None,) * 3
        return (None, dq, dk, dv, dmask, None, dsinks, *lengths, *unused)

    jvp = staticmethod(_refuse_forward_mode)


class _AttentionBackward(torch.autograd.Function):
    @staticmethod
    def forward(modes: _Modes, *inputs: Any) -> Any:
        with modes.below_autograd():
            return attention_backward_op(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise NotImplementedError(
            "umfa::attention_backward has no gradient: double backward through attention is not "
            "supported"
        )

    jvp = staticmethod(_refuse_forward_mode)


def _no_derivative(inputs: tuple[Any, ...]) -> bool:
    """Whether nothing is to be recorded: neither gradients nor, at any level, tangents."""
    if forward_ad._current_level >= 0:
        return False
    return not torch.is_grad_enabled() or not any(
        isinstance(x, Tensor) and x.requires_grad for x in inputs
    )


def _autograd_kernel(operator: Any, function: Any) -> Any:
    """`function` as the autograd kernel of an operator.

    Its plain `apply` is what the dispatcher wants: under torch.func, the dispatcher itself goes
    from level to level, each of which has its autograd. PyTorch keeps that call for itself, and
    has to be told that it is meant.
    """
    apply = super(torch.autograd.Function, function).apply

    def kernel(*inputs: Any) -> Any:
        if _no_derivative(inputs):
            with _AutoDispatchBelowAutograd():
                return operator(*inputs)
        allowed = get_single_level_autograd_function_allowed()
        set_single_level_autograd_function_allowed(True)
        try:
            return apply(_Modes(), *inputs)
        finally:
            set_single_level_autograd_function_allowed(allowed)

    return kernel


def _register(operator: Any, kernel: Any, fake: Any, function: Any, batching_rule: Any) -> None:
    name = operator._schema.name.partition("::")[2]
    LIBRARY.impl(name, kernel, "CPU")
    LIBRARY.impl(name, _autograd_kernel(operator, function), "Autograd")
    torch.library.register_fake(f"umfa::{name}", fake, lib=LIBRARY)
    if hasattr(torch.library, "register_vmap"):  # from PyTorch 2.5 on
        torch.library.register_vmap(f"umfa::{name}", batching_rule, lib=LIBRARY)


_register(attention_op, _attention, _attention_fake, _Attention, _vmap.attention)
_register(
    attention_backward_op,
    _attention_backward,
    _attention_backward_fake,
    _AttentionBackward,
    _vmap.attention_backward,
)
