"""Draws sections to train on through the planner, so every order seen at inference is trained."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from recurvid.packing import PackingSchedule
from recurvid.planning.orders import plan
from recurvid.sections import Section


@dataclass(frozen=True)
class OrderShare:
    """How often an order is drawn."""

    order: str
    schedule: str
    share: float


@lru_cache(maxsize=64)
def _sections(order: str, schedule: str, count: int) -> tuple[Section, ...]:
    return plan(order, PackingSchedule.parse(schedule), count).sections


def draw_sections(
    latent_frames: int, count: int, share: OrderShare, rng: np.random.Generator
) -> list[Section]:
    """Sections of videos that fit into a clip of ``latent_frames``, each from a random length.

    Longer videos are drawn more often: they have more sections, and a clip is made for them.
    """
    generated = PackingSchedule.parse(share.schedule).generated
    most = (latent_frames - 1) // generated
    weights = np.arange(1, most + 1, dtype=float)
    lengths = rng.choice(np.arange(1, most + 1), size=count, p=weights / weights.sum())
    drawn: list[Section] = []
    for length in lengths:
        sections = _sections(share.order, share.schedule, int(length))
        drawn.append(sections[int(rng.integers(len(sections)))])
    return drawn
