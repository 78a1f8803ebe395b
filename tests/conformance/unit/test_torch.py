"""The reference against PyTorch in float64: scaled_dot_product_attention and autograd."""

from __future__ import annotations

import numpy as np
import pytest
from reference.backward import Incoming, backward
from reference.forward import forward

from unit.problems import OPTIONS, grad_output, problem

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

SHARED = ["plain", "scale", "causal", "bool key padding", "bool mask", "mask", "mask over heads"]


@pytest.mark.parametrize("name", SHARED)
def test_parity(name: str) -> None:
    p = problem(OPTIONS[name])
    group, mask = p.group, p.options.mask
    tensors = [torch.tensor(x.values, requires_grad=True) for x in (p.query, p.key, p.value)]
    q, k, v = tensors
    added = None if mask is None else torch.tensor(mask, requires_grad=mask.dtype != np.bool_)
    out = torch.nn.functional.scaled_dot_product_attention(
        q,
        k.repeat_interleave(group, 1),
        v.repeat_interleave(group, 1),
        attn_mask=added,
        is_causal=p.options.causal,
        scale=p.options.scale,
    )
    exact, incoming = forward(p), grad_output(p)
    assert np.isfinite(exact.logsumexp).all(), "PyTorch's versions differ on rows without a key"
    np.testing.assert_allclose(out.detach().numpy(), exact.output, atol=1e-13)
    out.backward(torch.tensor(incoming.values))
    gradients = backward(p, Incoming(incoming, exact.logsumexp))
    for tensor, found in zip(tensors, (gradients.query, gradients.key, gradients.value)):
        np.testing.assert_allclose(found, tensor.grad.numpy(), atol=1e-12)
    if added is not None and added.requires_grad:
        np.testing.assert_allclose(gradients.mask, added.grad.numpy(), atol=1e-12)
