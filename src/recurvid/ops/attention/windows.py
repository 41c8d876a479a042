"""Windows: which video tokens look at which, as numbers only.

Each axis of the tokens' grid (frames, rows, columns) is cut into windows of one size; a window sees
itself and a margin on both sides. Where an axis does not divide, neighbouring windows
overlap; at the borders neighbourhoods are moved inwards. So all windows are of one size, and so
are all neighbourhoods, and a dense kernel takes many of them in one call.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise

from recurvid.errors import InputError

Grid = tuple[int, int, int]  # frames, rows, columns of tokens

#: Words of the command line for no windows at all.
NONE = "none"
#: Share of a run's steps, from the first on, that attend to everything, unless one says another.
DENSE_PERCENT = 25
_FORM = re.compile(r"(\d{1,4})x(\d{1,4})(?:\+(\d{1,4}))?(?:@(\d{1,3}))?", re.ASCII)


@dataclass(frozen=True)
class Axis:
    """One axis cut into windows.

    Attributes:
        length: tokens along it.
        size: of a window.
        reach: tokens that a window sees.
        starts: where each window begins.
        near: where what it sees begins.
    """

    length: int
    size: int
    reach: int
    starts: tuple[int, ...]
    near: tuple[int, ...]

    def owners(self) -> tuple[int, ...]:
        """For each token, the window whose result for it counts: one, where windows overlap."""
        ends = (*self.starts[1:], self.length)
        counts = [end - start for start, end in zip(self.starts, ends, strict=True)]
        return tuple(i for i, count in enumerate(counts) for _ in range(count))


def cut(length: int, size: int, margin: int) -> Axis:
    """Windows of at most ``size`` tokens; as few as that allows, as equal as they can be."""
    count = max(1, math.ceil(length / size))
    own = math.ceil(length / count)
    last, reach = length - own, min(length, own + 2 * margin)
    starts = tuple(i * last // (count - 1) for i in range(count)) if count > 1 else (0,)
    assert all(b - a <= own for a, b in pairwise(starts))
    near = tuple(min(max(0, start - margin), length - reach) for start in starts)
    return Axis(length, own, reach, starts, near)


@dataclass(frozen=True)
class Windows:
    """What a user asks for: windows of rows x columns, through all frames.

    Attributes:
        rows, columns: of a window, in tokens (16 pixels of the released models).
        margin: tokens beyond its border that a window sees, on each side.
        dense_percent: share of a run's steps, from the first on, that attend to everything.
    """

    rows: int
    columns: int
    margin: int
    dense_percent: int = DENSE_PERCENT

    @staticmethod
    def parse(text: str) -> Windows | None:
        """Read "10x13+5@25", where "+" (half a window) and "@" (25) may be left out; or "none".

        Raises:
            InputError: it is not of this form.
        """
        if text == NONE:
            return None
        match = _FORM.fullmatch(text)
        rows, columns, margin, percent = match.groups() if match else ("0", "0", None, None)
        if not (int(rows) and int(columns)) or int(percent or 0) > 100:
            raise InputError(
                f"sparse attention {text[:40]!r}: give {NONE}, or rows x columns of a window in "
                "tokens, +margin, @percent of dense steps, as 10x13 or 10x13+5@25"
            )
        half = (max(int(rows), int(columns)) + 1) // 2
        return Windows(
            int(rows),
            int(columns),
            half if margin is None else int(margin),
            DENSE_PERCENT if percent is None else int(percent),
        )

    def __str__(self) -> str:
        """As ``parse`` reads it, nothing left out."""
        return f"{self.rows}x{self.columns}+{self.margin}@{self.dense_percent}"

    def axes(self, grid: Grid) -> tuple[Axis, Axis, Axis]:
        """Frames, rows and columns of a grid, cut."""
        frames, rows, columns = grid
        return (
            cut(frames, frames, 0),
            cut(rows, self.rows, self.margin),
            cut(columns, self.columns, self.margin),
        )

    def cover(self, grid: Grid) -> bool:
        """Whether every window sees the whole grid, so that nothing is left out."""
        return all(axis.reach == axis.length for axis in self.axes(grid))

    def dense_steps(self, steps: int) -> int:
        """How many of a run's first steps attend to everything."""
        return math.ceil(steps * self.dense_percent / 100)
