"""SageAttention: q k^T in int8, where it is installed (versions 1 and 2 share the call)."""

from __future__ import annotations

from torch import Tensor

from recurvid.ops.attention.backend import AttentionBackend
from recurvid.ops.attention.requirements import Requirements, loaded
from recurvid.ops.attention.sdpa import SHORT
from recurvid.ops.attention.sdpa import attend as exact

LIBRARY = "sageattention"


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """SageAttention: scores in int8, K smoothed."""
    assert mask is None
    if q.shape[1] < SHORT:
        return exact(q, k, v, mask)
    q, k, v = (x.contiguous() for x in (q, k, v))
    return loaded(LIBRARY).sageattn(q, k, v, tensor_layout="NHD", is_causal=False)


SAGE = AttentionBackend(
    "sage",
    attend,
    Requirements(library=LIBRARY, capability=(8, 0), head_dim=128, multiple=64, grad=False),
    exact=False,
)
