"""Dao's FlashAttention 2, 3 and 4, where one is installed.

Signatures: flash_attn 2.8 ``flash_attn_interface.py``; the hopper folder's
``flash_attn_interface.py`` of version 3; ``flash_attn/cute/interface.py`` of version 4. All take
and give (b, n, heads, head_dim), scale by 1 / sqrt(head_dim) and attend to all keys by default.

Version 4 (``pip install "flash-attn-4[cu13]"``) builds its kernel at the first call of a shape's
kind. An operation of torch stands around it, so that compiled blocks have no break there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recurvid.ops.attention.backend import AttentionBackend
from recurvid.ops.attention.requirements import Requirements, loaded
from recurvid.ops.attention.sdpa import SHORT
from recurvid.ops.attention.sdpa import attend as exact

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
    """FlashAttention 4: on Hopper 1.14 times as fast as cuDNN."""
    assert mask is None
    if q.shape[1] < SHORT:
        return exact(q, k, v, mask)
    return _attend_4(q, k, v)


@torch.library.custom_op(
    "recurvid::flash_attention_4",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v) -> Tensor",
)
def _attend_4(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q, k, v (b, n, heads, head_dim) to the form of q."""
    q, k, v = (x.contiguous() for x in (q, k, v))
    return _only_output(loaded(VERSION_4).flash_attn_func(q, k, v, causal=False))


@_attend_4.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


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
# The library has code from Ampere to Blackwell; measured was Hopper's.
FLASH_4 = AttentionBackend(
    "flash4",
    attend_4,
    Requirements(
        library=VERSION_4,
        package="flash-attn-4",
        capability=(8, 0),
        most_capability=(13, 0),
        head_dim=128,
        grad=False,
    ),
    untested=True,
)
