"""PackingSchedule: which past frames a section sees, and how coarsely.

The notation is the paper's (arXiv 2504.12626, section 4.1); its grammar stands in `notation`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from recurvid.errors import InputError
from recurvid.packing.kernel import FrameGroup, Kernel
from recurvid.packing.notation import Field, Gap, Notation, Run, Tail, Target, read

TARGET_KERNEL = Kernel(1, 2, 2)
TAIL_POOL = 32
"""Latent pixels, in height and width, that one pixel of an appended tail frame stands for."""


@dataclass(frozen=True)
class TokenCount:
    """Video tokens of one section.

    Attributes:
        groups: label -> tokens in timeline order; labels are ``anchor f1k1``, ``history f16k4``,
            ``target g9``, ``tail ta``, with `` #2`` and so on where a label comes again.
    """

    groups: dict[str, int]

    @property
    def total(self) -> int:
        """Everything that attention sees beside text and image tokens."""
        return sum(self.groups.values())

    @property
    def target(self) -> int:
        """The noisy frames' tokens."""
        return next(count for label, count in self.groups.items() if label.startswith("target"))

    @property
    def history(self) -> int:
        """History and tail, without anchors."""
        return sum(n for label, n in self.groups.items() if label.startswith(("history", "tail")))


@dataclass(frozen=True)
class PackingSchedule:
    """A parsed schedule. Make one with `PackingSchedule.parse`; ``str`` gives the text back."""

    notation: Notation

    @staticmethod
    def parse(text: str) -> PackingSchedule:
        """Read a schedule such as ``f1k1_x_g9_f1k1f2k2f16k4_td``.

        Raises:
            ScheduleError: the text is malformed; names reason and character.
            InputError: it is no text.
        """
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"a packing schedule is a text such as f1k1_x_g9_f1k1, not {text!r}")
        return PackingSchedule(read(text))

    def __str__(self) -> str:
        return "_".join(map(str, self.fields)) + ("+D" if self.discretized else "")

    @property
    def fields(self) -> tuple[Field, ...]:
        """Tail, runs of groups, gap and target in timeline order."""
        return self.notation.fields

    @property
    def discretized(self) -> bool:
        """Whether history is replaced by centroids of a codebook (``+D``)."""
        return self.notation.discretized

    @property
    def generated(self) -> int:
        """Latent frames made in one section (N of ``gN``)."""
        target = self.fields[self.notation.target]
        assert isinstance(target, Target)
        return target.frames

    @property
    def tail(self) -> Literal["td", "ta", "tc"] | None:
        """What happens to frames older than every slot; None means ``td`` without saying so."""
        kinds = [field.kind for field in self.fields if isinstance(field, Tail)]
        return kinds[0] if kinds else None  # pyright: ignore[reportReturnType]

    @property
    def has_gap(self) -> bool:
        """Whether it has an ``x``."""
        return any(isinstance(field, Gap) for field in self.fields)

    @property
    def direction(self) -> Literal["forward", "inverted"]:
        """``forward``: history lies before the target; ``inverted``: after it.

        Without history, a gap before the target means ``inverted``.
        """
        place = self.notation.history
        if place is not None:
            return "forward" if place < self.notation.target else "inverted"
        before = self.fields[: self.notation.target]
        return "inverted" if any(isinstance(field, Gap) for field in before) else "forward"

    @property
    def history(self) -> tuple[FrameGroup, ...]:
        """The groups touching the target, in timeline order."""
        if self.notation.history is None:
            return ()
        run = self.fields[self.notation.history]
        assert isinstance(run, Run)
        return run.groups

    @property
    def anchors(self) -> tuple[FrameGroup, ...]:
        """All other groups, in timeline order."""
        return self.anchors_before + self.anchors_after

    @property
    def anchors_before(self) -> tuple[FrameGroup, ...]:
        """Anchors earlier on the timeline than the target (the start picture)."""
        return self._anchors(range(self.notation.target))

    @property
    def anchors_after(self) -> tuple[FrameGroup, ...]:
        """Anchors later on the timeline than the target (an endpoint)."""
        return self._anchors(range(self.notation.target + 1, len(self.fields)))

    @property
    def history_frames(self) -> int:
        """History slots, in latent frames."""
        return sum(group.frames for group in self.history)

    @property
    def anchor_frames(self) -> int:
        """Anchor slots, in latent frames."""
        return sum(group.frames for group in self.anchors)

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """The context's kernels, coarsest first: the order of the model's context tokens."""
        kernels = {group.kernel for group in self.history + self.anchors}
        return tuple(sorted(kernels, key=lambda kernel: (kernel.volume, kernel), reverse=True))

    @property
    def tail_kernel(self) -> Kernel:
        """Kernel that encodes appended and compressed tails: that of the farthest history."""
        return self.history[0 if self.direction == "forward" else -1].kernel

    def tokens(
        self, height: int, width: int, *, tail_frames: int = 0, spatial_stride: int = 8
    ) -> TokenCount:
        """Video tokens of one section at a size in pixels, padding included.

        Args:
            height, width: pixels, multiples of twice ``spatial_stride``.
            tail_frames: latent frames older than every slot; only ``ta`` and ``tc`` count them.
            spatial_stride: the autoencoder's.

        Raises:
            InputError: a size that the backbone's 2 x 2 patches do not divide.
        """
        unit = 2 * spatial_stride
        if height < unit or width < unit or height % unit or width % unit:
            raise InputError(f"size {width}x{height}: both must be multiples of {unit} pixels")
        latent = (height // spatial_stride, width // spatial_stride)
        counts: list[tuple[str, int]] = []
        for place, field in enumerate(self.fields):
            if isinstance(field, Target):
                counts.append((f"target {field}", TARGET_KERNEL.tokens(field.frames, *latent)))
            elif isinstance(field, Run):
                role = "history" if place == self.notation.history else "anchor"
                for group in field.groups:
                    label = f"{role} f{group.frames}{group.kernel}"
                    counts.append((label, group.kernel.tokens(group.frames, *latent)))
            elif isinstance(field, Tail) and field.kind != "td" and tail_frames:
                counts.append((f"tail {field}", self._tail_tokens(tail_frames, *latent)))
        return TokenCount(_numbered(counts))

    def _tail_tokens(self, frames: int, height: int, width: int) -> int:
        if self.tail == "tc":
            return 1
        return self.tail_kernel.tokens(frames, -(-height // TAIL_POOL), -(-width // TAIL_POOL))

    def _anchors(self, places: range) -> tuple[FrameGroup, ...]:
        runs = (self.fields[place] for place in places if place != self.notation.history)
        return tuple(group for run in runs if isinstance(run, Run) for group in run.groups)


def _numbered(counts: list[tuple[str, int]]) -> dict[str, int]:
    """A dictionary in which a repeated label gets `` #2``, `` #3``."""
    seen: Counter[str] = Counter()
    numbered: dict[str, int] = {}
    for label, count in counts:
        seen[label] += 1
        numbered[label if seen[label] == 1 else f"{label} #{seen[label]}"] = count
    return numbered
