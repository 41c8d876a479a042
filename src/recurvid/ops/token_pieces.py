"""Work on some tokens at a time: what is wide, or in float32, never exists for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from recurvid.ops.linear.pieces import pieces


def by_tokens(
    work: Callable[[slice], Sequence[Tensor]], into: Sequence[Tensor], most: int, first: int = 0
) -> None:
    """Fill tensors with what ``work`` makes of some tokens after others.

    Args:
        work: slice of tokens -> one tensor (b, tokens, ...) for each of ``into``.
        into: (b, n, ...) each; their room is taken before any work is done.
        most: tokens at once.
        first: token from which on ``into`` is filled; those before it are somebody else's.
    """
    for part in pieces(into[0].shape[1] - first, 1, most):
        made = list(work(part))
        place = slice(part.start + first, part.stop + first)
        for whole in into:
            # popped, so that each goes before the next piece is begun
            whole[:, place] = made.pop(0)
