"""xFormers' memory-efficient attention, where it is installed (signature of 0.0.3x)."""

from __future__ import annotations

from torch import Tensor

from recurvid.ops.attention.backend import AttentionBackend
from recurvid.ops.attention.requirements import Requirements, loaded
from recurvid.ops.attention.torch_kernels import FLOATS

LIBRARY = "xformers.ops"


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The memory-efficient attention of xFormers."""
    assert mask is None
    return loaded(LIBRARY).memory_efficient_attention(q, k, v, attn_bias=None, p=0.0)


XFORMERS = AttentionBackend(
    "xformers",
    attend,
    Requirements(dtypes=FLOATS, library=LIBRARY, capability=(7, 0)),
    untested=True,
)
