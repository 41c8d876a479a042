"""Rotary position embedding over time, height and width, at arbitrary frame indices.

A token of a coarse kernel covers several tokens of the (1, 2, 2) grid. Its cos and sin are the
averages of theirs (paper section 1, "RoPE alignment"), so their modulus is below 1. Each channel
turns with one axis only, hence averaging over the box is averaging along that axis, and a table
is put together from three short ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class RopeTable:
    """cos and sin of every token, (b or 1, n, head_dim / 2), float32."""

    cos: Tensor
    sin: Tensor

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return self.cos.shape[1]

    def of(self, tokens: slice) -> RopeTable:
        """Of some of the tokens; nothing is copied."""
        return RopeTable(self.cos[:, tokens], self.sin[:, tokens])

    @staticmethod
    def joined(tables: list[RopeTable]) -> RopeTable:
        """Tables one after the other along the tokens; a batch of 1 stands for any batch."""
        batch = max(t.cos.shape[0] for t in tables)
        return RopeTable(
            torch.cat([t.cos.expand(batch, -1, -1) for t in tables], dim=1),
            torch.cat([t.sin.expand(batch, -1, -1) for t in tables], dim=1),
        )

    def with_still_tokens(self, count: int) -> RopeTable:
        """The table with ``count`` more tokens at the end that are not turned (text)."""
        return RopeTable(
            F.pad(self.cos, (0, 0, 0, count), value=1.0), F.pad(self.sin, (0, 0, 0, count))
        )


def _axis_phases(position: Tensor, dim: int, theta: float, window: int) -> tuple[Tensor, Tensor]:
    """Cos and sin (b, ceil(n / window), dim / 2) of positions (b, n), averaged in windows.

    The last window is filled by repeating the last position, as the latents are.
    """
    frequency = 1.0 / theta ** (torch.arange(0, dim, 2, device=position.device).float() / dim)
    phase = position.float()[..., None] * frequency
    if window == 1:
        return phase.cos(), phase.sin()
    missing = -phase.shape[1] % window
    phase = torch.cat([phase, phase[:, -1:].expand(-1, missing, -1)], dim=1)
    phase = phase.unflatten(1, (-1, window))
    return phase.cos().mean(dim=2), phase.sin().mean(dim=2)


def rope_table(
    index: Tensor,
    size: tuple[int, int],
    dims: tuple[int, int, int],
    theta: float,
    window: tuple[int, int, int] = (1, 1, 1),
) -> RopeTable:
    """Phases of a box of tokens, ordered by frame, row, column.

    Args:
        index: (b, t) frame index of every latent frame of the group.
        size: rows and columns of the (1, 2, 2) token grid.
        dims: channels of a head that turn with time, height, width; all even.
        theta: base of the frequencies.
        window: how many (1, 2, 2) tokens one token averages along time, height, width.
    """
    rows, columns = (torch.arange(n, device=index.device)[None] for n in size)
    axes = [
        _axis_phases(position, dim, theta, count)
        for position, dim, count in zip((index, rows, columns), dims, window, strict=True)
    ]
    batch, (t, h, w) = index.shape[0], (cos.shape[1] for cos, _ in axes)

    def spread(which: int) -> Tensor:
        time = axes[0][which][:, :, None, None].expand(batch, t, h, w, -1)
        row = axes[1][which][:, None, :, None].expand(batch, t, h, w, -1)
        column = axes[2][which][:, None, None, :].expand(batch, t, h, w, -1)
        return torch.cat([time, row, column], dim=-1).flatten(1, 3)

    return RopeTable(spread(0), spread(1))


def apply_rope(x: Tensor, table: RopeTable) -> Tensor:
    """Turn neighbouring channel pairs of x (b, n, heads, head_dim); computed in fp32."""
    real, imaginary = (
        x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (-1, 2)).unbind(-1)
    )
    cos, sin = table.cos[:, :, None], table.sin[:, :, None]
    turned = torch.stack([real * cos - imaginary * sin, imaginary * cos + real * sin], dim=-1)
    return turned.flatten(-2).to(x.dtype)
