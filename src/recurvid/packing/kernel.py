"""Patchify kernels and groups of frames that go through one."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, order=True)
class Kernel:
    """Patchify kernel and stride in latent frames and latent pixels.

    ``k1`` = (1, 2, 2) is the kernel of the noisy frames; ``kA`` = (A, 2A, 2A). Height and width
    are even, because positions of coarser tokens are pooled from the grid of ``k1``.
    """

    t: int
    h: int
    w: int

    def __post_init__(self) -> None:
        if self.t < 1 or self.h < 2 or self.w < 2 or self.h % 2 or self.w % 2:
            raise ValueError(f"impossible kernel ({self.t}, {self.h}, {self.w})")

    @property
    def is_short(self) -> bool:
        """Whether the short form ``kA`` can say it."""
        return self.h == self.w == 2 * self.t

    @property
    def short(self) -> str:
        """``k4`` where that form exists, else the long form ``k2h4w2``."""
        return f"k{self.t}" if self.is_short else self.long

    @property
    def long(self) -> str:
        """The long form, ``k4h8w8``."""
        return f"k{self.t}h{self.h}w{self.w}"

    @property
    def volume(self) -> int:
        """Latent pixels per token; the coarser the kernel, the larger."""
        return self.t * self.h * self.w

    def tokens(self, frames: int, height: int, width: int) -> int:
        """Tokens of ``frames`` latent frames of ``height`` x ``width`` latent pixels.

        Sizes that are no multiple of the kernel are padded up, as the released code does.
        """
        return -(-frames // self.t) * -(-height // self.h) * -(-width // self.w)

    def __str__(self) -> str:
        return self.short


@dataclass(frozen=True)
class FrameGroup:
    """``fNkM``: contiguous latent frames through one kernel.

    ``spelled_out`` remembers that the kernel was written in its long form, so that a schedule
    prints as it was given; it does not take part in comparison.
    """

    frames: int
    kernel: Kernel
    spelled_out: bool = field(default=False, compare=False, repr=False)

    def __str__(self) -> str:
        return f"f{self.frames}{self.kernel.long if self.spelled_out else self.kernel.short}"
