"""Work on rows in pieces, so that its float32 does not fill the memory that few bits save.

Rounding the hidden layer of a 13B block at 480x832 in one go makes several tensors of 0.9 GB, more
than all else in a step. In pieces it costs some ten MB, and on a CPU the pieces stay in its cache.
Compiled code needs none of it: there nothing is written in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

#: Numbers in a piece: what keeps a card busy, and what a core's cache holds.
CARD, CACHE = 2**23, 2**18


def pieces(rows: int, width: int, most: int = 0) -> Sequence[slice]:
    """Slices of nearly equal length of so many rows of ``width`` numbers; one where that is few.

    ``most`` numbers are worked on at once; 0 stands for ``CARD``.
    """
    count = min(max(1, -(-rows * width // (most or CARD))), max(1, rows))
    # Never a short rest: some products take no few rows.
    ends = [rows * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in pairwise(ends)]


def rounded_in_pieces(
    x: Tensor, rounded: Callable[[Tensor], tuple[Tensor, Tensor]], codes: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Rows (..., k) to ``codes`` of that shape and fp32 (..., 1): what ``rounded`` gives for each.

    ``rounded`` must treat every row by itself.
    """
    if torch.compiler.is_compiling() or x.ndim != 2:
        return rounded(x)
    rows, width = x.shape
    parts = pieces(rows, width, CACHE if x.device.type == "cpu" else CARD)
    if len(parts) == 1:
        return rounded(x)
    out = torch.empty_like(x, dtype=codes, memory_format=torch.contiguous_format)
    scale = torch.empty(len(x), 1, device=x.device)
    for part in parts:
        out[part], scale[part] = rounded(x[part])
    return out, scale
