"""Reads the paper's schedule notation (arXiv 2504.12626, section 4.1) into fields.

Fields stand in timeline order, joined by ``_``::

    schedule = field {"_" field} ["+D"]
    field    = tail | run | gap | target
    tail     = "td" | "ta" | "tc"           deleted, appended, compressed
    run      = group {group}                contiguous frames
    group    = "f" N kernel
    kernel   = "k" A                        (A, 2A, 2A), any A
             | "k" A "h" B "w" C            (A, B, C), B and C even
    gap      = "x"                          any number of frames that are skipped
    target   = "g" N                        frames generated in one run

Numbers are ASCII digits without leading zeros, from 1 to 99999. Letters are lower case; the
suffix is read as ``+d`` too and printed as ``+D``.
Exactly one target; at most one gap, with frames on both sides; groups touch the target on one
side at most (those are history, all others anchors); a tail needs history and stands at its far
end: in the first field when history lies before the target, in the last one when after.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from recurvid.errors import ScheduleError
from recurvid.packing.kernel import FrameGroup, Kernel

MAX_DIGITS = 5
TAILS = ("td", "ta", "tc")


@dataclass(frozen=True)
class Tail:
    """What happens to frames older than every slot: ``td``, ``ta`` or ``tc``."""

    kind: str

    def __str__(self) -> str:
        return self.kind


@dataclass(frozen=True)
class Run:
    """Groups of frames that follow each other without a separator."""

    groups: tuple[FrameGroup, ...]

    @property
    def frames(self) -> int:
        """Latent frames of all groups."""
        return sum(group.frames for group in self.groups)

    def __str__(self) -> str:
        return "".join(map(str, self.groups))


@dataclass(frozen=True)
class Gap:
    """``x``."""

    def __str__(self) -> str:
        return "x"


@dataclass(frozen=True)
class Target:
    """``gN``."""

    frames: int

    def __str__(self) -> str:
        return f"g{self.frames}"


Field = Tail | Run | Gap | Target


@dataclass(frozen=True)
class Notation:
    """A schedule as written: fields in timeline order, the place of ``gN``, side of the history.

    ``history`` is the place of the run that touches the target, or None.
    """

    fields: tuple[Field, ...]
    target: int
    history: int | None
    discretized: bool


def read(text: str) -> Notation:
    """Parse ``text``.

    Raises:
        ScheduleError: with the position of the first character that does not fit.
    """
    reader = _Reader(text)
    fields, starts = reader.fields()
    return _arrange(text, fields, starts, reader.discretized)


class _Reader:
    """A cursor over the text; every method either moves it forward or raises."""

    def __init__(self, text: str):
        self.text, self.at, self.discretized = text, 0, False

    def fields(self) -> tuple[list[Field], list[int]]:
        if not self.text:
            raise self.error("nothing there; for example f1k1_x_g9_f1k1f2k2f16k4_td")
        fields: list[Field] = []
        starts: list[int] = []
        while True:
            starts.append(self.at)
            fields.append(self.field())
            if not self.take("_"):
                break
        if self.take("+"):
            if not (self.take("D") or self.take("d")):
                raise self.error("expected D after +")
            self.discretized = True
        if self.at < len(self.text):
            raise self.error(f"unexpected {self.text[self.at]!r}; fields are joined by _")
        return fields, starts

    def field(self) -> Field:
        if self.peek() == "f":
            return self.run()
        if self.take("x"):
            return Gap()
        if self.take("g"):
            return Target(self.number("generated frames"))
        if self.text[self.at : self.at + 2] in TAILS:
            self.at += 2
            return Tail(self.text[self.at - 2 : self.at])
        if self.peek() == "t":
            self.at += 1
            raise self.error("expected td, ta or tc")
        what = f"unexpected {self.peek()!r}" if self.peek() else "a field is missing"
        raise self.error(f"{what}; expected fNkM, gN, x, td, ta or tc")

    def run(self) -> Run:
        groups: list[FrameGroup] = []
        while self.take("f"):
            frames = self.number("frames")
            if not self.take("k"):
                raise self.error(f"expected a kernel, such as f{frames}k1")
            groups.append(self.kernel(frames))
        return Run(tuple(groups))

    def kernel(self, frames: int) -> FrameGroup:
        t = self.number("kernel")
        if not self.take("h"):
            return FrameGroup(frames, Kernel(t, 2 * t, 2 * t))
        h = self.even("kernel height")
        if not self.take("w"):
            raise self.error(f"expected the kernel's width, such as k{t}h{h}w{h}")
        return FrameGroup(frames, Kernel(t, h, self.even("kernel width")), spelled_out=True)

    def even(self, what: str) -> int:
        start = self.at
        value = self.number(what)
        if value % 2:
            raise self.error(f"{what} must be even, not {value}", start)
        return value

    def number(self, what: str) -> int:
        start = self.at
        while self.peek() and self.peek() in "0123456789":
            self.at += 1
        digits = self.text[start : self.at]
        if not digits:
            raise self.error(f"expected a number ({what})")
        if digits[0] == "0":
            raise self.error(f"{what} must be a number from 1 on without leading zeros", start)
        if len(digits) > MAX_DIGITS:
            raise self.error(f"{what} is at most {'9' * MAX_DIGITS}", start)
        return int(digits)

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def take(self, character: str) -> bool:
        if self.peek() != character:
            return False
        self.at += 1
        return True

    def error(self, reason: str, position: int | None = None) -> ScheduleError:
        # A missing character is pointed at where the text ends, so that the caret is inside it.
        position = self.at if position is None else position
        return ScheduleError(reason, self.text, max(0, min(position, len(self.text) - 1)))


def _arrange(text: str, fields: list[Field], starts: list[int], discretized: bool) -> Notation:
    """Check what stands where, and find target and history."""

    def error(reason: str, place: int) -> ScheduleError:
        return ScheduleError(reason, text, starts[place])

    targets = [i for i, field in enumerate(fields) if isinstance(field, Target)]
    if not targets:
        raise error("no gN: say how many frames are generated in one run", len(fields) - 1)
    if len(targets) > 1:
        raise error("a second gN; a schedule generates once", targets[1])
    target = targets[0]
    history = _history(fields, target, error)
    for place in (i for i, field in enumerate(fields) if isinstance(field, Tail)):
        if history is None:
            raise error("a tail needs history: frames that touch gN", place)
        far = 0 if history < target else len(fields) - 1
        if place != far:
            side = "first" if far == 0 else "last"
            raise error(f"the tail is the {side} field, at the far end of the history", place)
    gaps = [i for i, field in enumerate(fields) if isinstance(field, Gap)]
    if len(gaps) > 1:
        raise error("a second x; a schedule has one gap", gaps[1])
    for place in gaps:
        neighbours = fields[max(place - 1, 0) : place] + fields[place + 1 : place + 2]
        if len([f for f in neighbours if isinstance(f, Run | Target)]) < 2:
            raise error("x needs frames on both sides", place)
    return Notation(tuple(fields), target, history, discretized)


def _history(
    fields: list[Field], target: int, error: Callable[[str, int], ScheduleError]
) -> int | None:
    """Place of the run that touches the target."""
    touching = [
        place
        for place in (target - 1, target + 1)
        if 0 <= place < len(fields) and isinstance(fields[place], Run)
    ]
    if len(touching) > 1:
        raise error("frames touch gN on both sides; separate the anchors by x", touching[1])
    return touching[0] if touching else None
