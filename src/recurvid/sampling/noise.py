"""Starting noise of each section, always float32 and drawn on the CPU.

Two sources. ``SectionNoise`` makes the noise of a section a function of (seed, section) alone, so
sections may be made, skipped or repeated in any order. ``SequentialNoise`` draws one section after
the other from a single generator, as the original does; a resumed run has to wind it forward.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from recurvid.errors import InputError

Shape = tuple[int, ...]

# Odd, so that section -> seed is one to one in the low 32 bits too, and those are all that torch's
# CPU generator uses: no two sections of one video ever start from the same noise.
_STRIDE = 0x9E3779B97F4A7C15


@runtime_checkable
class NoiseSource(Protocol):
    """Where sections get their starting noise from."""

    def draw(self, section: int, shape: Shape) -> Tensor:
        """Standard normal noise of ``shape`` for a section, float32 on the CPU."""
        ...

    def skip(self, shapes: Iterable[Shape]) -> None:
        """Pass over the next sections, whose noise had these shapes, because they are finished."""
        ...


def section_seed(seed: int, section: int) -> int:
    """64-bit seed of one section: (sha256("recurvid:SEED")[:8] + section * odd) mod 2^64.

    The hash spreads neighbouring user seeds; the odd stride keeps the sections of a video apart.
    """
    digest = hashlib.sha256(f"recurvid:{seed}".encode()).digest()
    return (int.from_bytes(digest[:8], "little") + section * _STRIDE) % 2**64


def section_noise(seed: int, section: int, shape: Shape) -> Tensor:
    """Noise that depends on (seed, section, shape) only: float32, CPU."""
    generator = torch.Generator("cpu").manual_seed(section_seed(seed, section))
    return torch.randn(shape, generator=generator, dtype=torch.float32)


class SectionNoise:
    """Noise per (seed, section): the default."""

    def __init__(self, seed: int):
        self.seed = seed

    def draw(self, section: int, shape: Shape) -> Tensor:
        """Noise of this section, whatever was drawn before."""
        return section_noise(self.seed, section, shape)

    def skip(self, shapes: Iterable[Shape]) -> None:
        """Nothing to do: no section depends on another."""


class SequentialNoise:
    """One generator across all sections, in the order of generation.

    Args:
        seed: what the generator is seeded with, 0 to 2^64 - 1; or the generator itself, when
            something else was drawn from it before (a posterior sample of the picture, say).
    """

    def __init__(self, seed: int | torch.Generator):
        if isinstance(seed, int):
            if not 0 <= seed < 2**64:
                raise InputError(f"a seed lies between 0 and 2^64 - 1, not {seed}")
            seed = torch.Generator("cpu").manual_seed(seed)
        self._generator = seed
        self._next = 0

    def draw(self, section: int, shape: Shape) -> Tensor:
        """Noise of the next section.

        Raises:
            ValueError: ``section`` is not the next one.
        """
        if section != self._next:
            raise ValueError(
                f"sequential noise is at section {self._next}, not {section}: "
                "skip() the shapes of the finished sections first"
            )
        self._next += 1
        return torch.randn(shape, generator=self._generator, dtype=torch.float32)

    def skip(self, shapes: Iterable[Shape]) -> None:
        """Draw and drop, one section a shape."""
        for shape in shapes:
            self.draw(self._next, shape)


NOISE: dict[str, Callable[[int], NoiseSource]] = {
    "section": SectionNoise,
    "sequential": SequentialNoise,
}
"""Noise sources by the name that a request gives them."""
