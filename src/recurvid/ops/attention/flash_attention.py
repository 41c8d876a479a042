"""Dao's FlashAttention 2, 3 and 4, where one is installed.

Signatures: flash_attn 2.8 ``flash_attn_interface.py``; the hopper folder's
``flash_attn_interface.py`` of version 3; ``flash_attn/cute/interface.py`` of version 4. All take
and give (b, n, heads, head_dim), scale by 1 / sqrt(head_dim) and attend to all keys by default.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from recurvid.ops.attention.backend import AttentionBackend
from recurvid.ops.attention.requirements import Requirements, loaded

VERSION_2, VERSION_3, VERSION_4 = "flash_attn", "flash_attn_interface", "flash_attn.cute.interface"


def attend_2(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """FlashAttention 2, as installed."""
    assert mask is None
    return _only_output(loaded(VERSION_2).flash_attn_func(q, k, v, causal=False))


def attend_3(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """FlashAttention 3, in the inputs' own precision."""
    assert mask is None
    return _only_output(loaded(VERSION_3).flash_attn_func(q, k, v, causal=False))


def attend_4(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """FlashAttention 4, in the inputs' own precision."""
    assert mask is None
    return _only_output(loaded(VERSION_4).flash_attn_func(q, k, v, causal=False))


def _only_output(result: Any) -> Tensor:
    """Some versions return (out, logsumexp), some the output alone."""
    return result[0] if isinstance(result, tuple) else result


FLASH_2 = AttentionBackend(
    "flash2", attend_2, Requirements(library=VERSION_2, capability=(8, 0)), untested=True
)
FLASH_3 = AttentionBackend(
    "flash3",
    attend_3,
    Requirements(library=VERSION_3, capability=(9, 0), most_capability=(10, 0)),
    untested=True,
)
FLASH_4 = AttentionBackend(
    "flash4",
    attend_4,
    Requirements(library=VERSION_4, capability=(9, 0), head_dim=128, grad=False),
    untested=True,
)
