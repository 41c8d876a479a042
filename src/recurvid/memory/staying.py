"""Which of a row of blocks stay on a device that cannot hold them all."""

from __future__ import annotations

from collections.abc import Sequence

#: Blocks that are larger than the others stay first where they are so few (a share of all): each
#: buffer for streamed blocks would have to be as large as they are.
FEW = 0.1


def staying(sizes: Sequence[int], count: int) -> tuple[int, ...]:
    """Numbers of the ``count`` blocks that stay, of all whose bytes are given.

    A few large ones first, then the smallest, so that no room is wasted; of one size evenly apart,
    so that copies hide behind resident neighbours.
    """
    found: list[int] = []
    for size in _in_order(sizes):
        alike = [number for number, other in enumerate(sizes) if other == size]
        wanted = min(count - len(found), len(alike))
        found += [alike[i] for i in spread(wanted, len(alike))]
    return tuple(sorted(found))


def spread(count: int, of: int) -> tuple[int, ...]:
    """``count`` numbers below ``of``, evenly apart."""
    return tuple(sorted({i * of // count for i in range(count)})) if count else ()


def _in_order(sizes: Sequence[int]) -> list[int]:
    """The different sizes, in the order in which blocks of them stay."""
    different = sorted(set(sizes))
    few = [size for size in different if sum(other >= size for other in sizes) <= FEW * len(sizes)]
    return [*reversed(few), *(size for size in different if size not in few)]
