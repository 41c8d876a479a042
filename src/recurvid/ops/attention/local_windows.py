"""Attention of video tokens to their neighbourhood only, on whatever dense kernel there is.

A window (see ``windows``) goes through the noisy frames and those of the context that have the same
tokens; it attends to what is around it in all of these frames, to all of the coarse context and to
the text. Coarse context and text attend to everything: if they see less, errors are many times as
large. Keys and values of some windows at a time are gathered and go through the dense kernel as a
batch. This changes the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from recurvid.errors import InputError
from recurvid.ops.attention.backend import AttentionBackend, TokenLayout
from recurvid.ops.attention.windows import Axis, Windows

#: Prompts of so many tokens more or fewer are cut into the same calls, so that code compiled for
#: one fits the others.
PROMPT = 256
#: Tokens that all windows of a layout look at together: their indices take 8 bytes each.
MOST_LOOKED_AT = 50_000_000
#: So much of the network attends to everything, as do a run's first steps: two of the 13B model's
#: 60 blocks, none of a small one. In the bundled model errors of the first two blocks weigh most.
DENSE_DEPTH = 1 / 30


def sparse(dense: AttentionBackend, windows: Windows) -> AttentionBackend:
    """A kernel that is ``dense`` until it is told the layout of the tokens that it will see."""

    def over(layout: TokenLayout, device: torch.device, depth: float) -> AttentionBackend:
        return dense if depth <= DENSE_DEPTH else _over(dense, windows, layout, device)

    return replace(dense, name=f"{dense.name}, windows {windows}", for_layout=over)


@lru_cache(maxsize=8)
def _over(
    dense: AttentionBackend, windows: Windows, layout: TokenLayout, device: torch.device
) -> AttentionBackend:
    """One object for all steps and sections of a shape: compiled blocks are bound to it."""
    if windows.cover(layout.grid):
        return dense
    return replace(dense, function=WindowAttention(dense, plan(windows, layout, device)))


@dataclass(frozen=True)
class Plan:
    """Which tokens meet in a call; indices into the whole sequence.

    Attributes:
        others: (r,) coarse context and text.
        queries: for each call the tokens of its windows, (windows, tokens).
        keys: for each call what they attend to, (windows, tokens).
        order: (n,) where each token stands in ``others`` and all ``queries``, one after the other.
    """

    others: Tensor
    queries: tuple[Tensor, ...]
    keys: tuple[Tensor, ...]
    order: Tensor


@dataclass(frozen=True)
class WindowAttention:
    """An attention function over one layout."""

    dense: AttentionBackend
    plan: Plan

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """See ``AttentionFunction``; each token is a query, and its result is there, once."""
        plan = self.plan
        parts: list[Tensor] = []
        if plan.others.shape[0]:
            parts.append(self.dense(q.index_select(1, plan.others), k, v, mask))
        for queries, keys in zip(plan.queries, plan.keys, strict=True):
            parts.append(self._inside(q, k, v, mask, queries, keys))
        return torch.cat(parts, dim=1).index_select(1, plan.order)

    # A call of its own, so that what was gathered is let go before more is.
    def _inside(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, queries: Tensor, keys: Tensor
    ) -> Tensor:
        """Results (b, windows * tokens, heads, head_dim) of the windows of one call."""
        out = self.dense(
            _gathered(q, queries),
            _gathered(k, keys),
            _gathered(v, keys),
            None if mask is None else _gathered(mask, keys),
        )
        return out.unflatten(0, (q.shape[0], -1)).flatten(1, 2)


def _gathered(x: Tensor, index: Tensor) -> Tensor:
    """Tokens (b, n, ...) by an index (windows, tokens): (b * windows, tokens, ...)."""
    return x.index_select(1, index.flatten()).unflatten(1, index.shape).flatten(0, 1)


def plan(windows: Windows, layout: TokenLayout, device: torch.device) -> Plan:
    """Indices for a layout, on the device.

    Raises:
        InputError: there are so many windows that the indices alone would fill the memory.
    """
    axes = windows.axes(layout.grid)
    _refuse_too_many(windows, layout, axes)
    start, end = layout.context, layout.context + layout.fine
    here = torch.arange(end + layout.text, device="cpu")
    context, text = here[:start], here[end:]
    fine = here[start:end].view(layout.grid)
    queries = _boxes(fine, *((axis.starts, axis.size) for axis in axes))
    near = _boxes(fine, *((axis.near, axis.reach) for axis in axes))
    count = len(near)
    keys = torch.cat([context.expand(count, -1), near, text.expand(count, -1)], dim=1)
    # What is gathered takes the place of a tensor of all tokens that a block has let go.
    told = -(-layout.text // PROMPT) * PROMPT
    at_once = max(1, end // (start + near.shape[1] + told))
    calls = -(-count // at_once)
    return Plan(
        torch.cat([context, text]).to(device),
        tuple(part.to(device) for part in queries.tensor_split(calls)),
        tuple(part.to(device) for part in keys.tensor_split(calls)),
        _order(layout, axes).to(device),
    )


def _refuse_too_many(windows: Windows, layout: TokenLayout, axes: tuple[Axis, ...]) -> None:
    count = math.prod(len(axis.starts) for axis in axes)
    near = math.prod(axis.reach for axis in axes)
    looked_at = count * (layout.context + near + layout.text)
    if looked_at > MOST_LOOKED_AT:
        raise InputError(
            f"sparse attention {windows}: its {count} windows would look at "
            f"{looked_at / 1e6:.0f} million tokens, {MOST_LOOKED_AT / 1e6:.0f} at most; "
            "give larger windows or a smaller margin"
        )


def _boxes(tokens: Tensor, *spans: tuple[tuple[int, ...], int]) -> Tensor:
    """Tokens (t, h, w) of every box, (boxes, tokens): starts and size along each axis."""
    (frames, t), (rows, h), (columns, w) = spans
    return torch.stack(
        [
            tokens[i : i + t, j : j + h, k : k + w].flatten()
            for i in frames
            for j in rows
            for k in columns
        ]
    )


def _order(layout: TokenLayout, axes: tuple[Axis, ...]) -> Tensor:
    """``Plan.order``: context, the grid's tokens each in the window that owns it, text."""
    window = place = torch.zeros((), dtype=torch.long, device="cpu")
    for axis in axes:
        owner = torch.tensor(axis.owners(), device="cpu")
        starts = torch.tensor(axis.starts, device="cpu")
        offset = torch.arange(axis.length, device="cpu") - starts[owner]
        window = window[..., None] * len(axis.starts) + owner
        place = place[..., None] * axis.size + offset
    size = axes[0].size * axes[1].size * axes[2].size
    others = layout.context + layout.text
    fine = others + window * size + place
    rest = torch.arange(others, device="cpu")
    return torch.cat([rest[: layout.context], fine.flatten(), rest[layout.context :]])
