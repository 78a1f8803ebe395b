"""Attention over parts of the keys, joined by their logsumexps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from umfa._errors import InvalidArgument, InvalidDimensions


def merge(
    outs: Sequence[Tensor], logsumexps: Sequence[Tensor], *, layout: str = "BHND"
) -> tuple[Tensor, Tensor]:
    """Attention over several sets of keys from the results of each, with gradients.

    With L = ln(sum(exp(L_i))), the result is sum(exp(L_i - L) * O_i): what one call over all keys
    returns, if no sinks were given, or in one of the parts alone.

    Args:
        outs: the results, [..., rows, columns].
        logsumexps: their logsumexps, [..., rows]; -inf is a row without keys, and whose result
            does not count.
        layout: "BNHD" where the results are [batch, rows, heads, columns]; logsumexps are [batch,
            heads, rows] in every layout.

    Returns:
        (out, logsumexp), in the dtypes of the parts.

    Example:
        >>> import torch, umfa.torch
        >>> q, k, v = torch.randn(3, 1, 2, 8, 16)
        >>> first = umfa.torch.attention(q, k[..., :5, :], v[..., :5, :], return_logsumexp=True)
        >>> second = umfa.torch.attention(q, k[..., 5:, :], v[..., 5:, :], return_logsumexp=True)
        >>> out, lse = umfa.torch.merge(*zip(first, second))
        >>> torch.allclose(out, umfa.torch.attention(q, k, v), atol=1e-6)
        True
    """
    outs, logsumexps = list(outs), list(logsumexps)
    if layout not in ("BHND", "BNHD"):
        raise InvalidArgument(f'layout: {layout!r}, expected "BHND" or "BNHD"')
    if not outs or len(outs) != len(logsumexps):
        raise InvalidArgument(
            f"outs and logsumexps: {len(outs)} and {len(logsumexps)} tensors, expected as many of "
            "one as of the other, and at least 1"
        )
    for index, (out, logsumexp) in enumerate(zip(outs, logsumexps)):
        shape = tuple(out.shape[:-1])
        rows = (*shape[:-2], shape[-1], shape[-2]) if layout == "BNHD" else shape
        if out.shape != outs[0].shape:
            raise InvalidDimensions(
                f"outs[{index}]: shape {tuple(out.shape)}, expected {tuple(outs[0].shape)} as "
                "outs[0]"
            )
        if tuple(logsumexp.shape) != rows:
            raise InvalidDimensions(
                f"logsumexps[{index}]: shape {tuple(logsumexp.shape)}, expected {rows} for outs "
                f"of shape {tuple(out.shape)}"
            )
    parts = torch.stack(logsumexps)
    # A row that no part has keys for: finite numbers in between, so that gradients are not NaN.
    top = parts.detach().amax(0)
    top = torch.where(top == -torch.inf, torch.zeros_like(top), top)
    weights = (parts - top).exp()
    total = weights.sum(0)
    empty = total == 0
    total = torch.where(empty, torch.ones_like(total), total)
    logsumexp = torch.where(empty, torch.full_like(total, -torch.inf), total.log() + top)
    weights = weights / total
    if layout == "BNHD":
        weights = weights.transpose(-1, -2)
    weights = weights.unsqueeze(-1)
    # Nothing of a part without keys counts, not even NaN.
    parts = torch.stack(outs)
    joined = (weights * torch.where(weights == 0, torch.zeros_like(parts), parts)).sum(0)
    return joined.to(outs[0].dtype), logsumexp
