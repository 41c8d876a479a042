"""A cache over blocks that are streamed in: the bits and decisions of the model at home."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.caching.cached_runs import maker
from tests.models.test_placed import Setting, full_device

from recurvid.caching.protocol import CachedStep, Step
from recurvid.caching.registry import CACHES
from recurvid.latents import LatentFrames

STEPS = 10


def run(backbone: Any, setting: Setting, name: str) -> tuple[list[torch.Tensor], list[bool]]:
    """Velocities and decisions along a fixed path from noise to nothing."""
    cache, made = maker(name, 1.0)(), []
    section = backbone.embed_section(setting.context, setting.target)
    for i in range(STEPS):
        sigma = 1 - i / STEPS
        target = LatentFrames(setting.target.data * (0.5 + sigma / 2), setting.target.index)
        with torch.no_grad():
            made.append(
                backbone(
                    target,
                    setting.timestep(1000 * sigma),
                    setting.conditioning,
                    setting.context,
                    section=section,
                    cache=CachedStep(cache, Step(i, STEPS, sigma)),
                )
            )
    return made, cache.computed


@pytest.mark.parametrize("name", CACHES)
@pytest.mark.parametrize("full", [False, True], ids=["as planned", "fuller"])
def test_same_bits_and_decisions(name: str, full: bool) -> None:
    setting = Setting(seed=5, resident=99 if full else 1)
    expected, decisions = run(setting.home, setting, name)
    refused: list[int] = []
    if full:  # the first step fails, gives up resident blocks, and is made again
        sizes = [layout.size for layout in setting.placed.stream.source.layouts]
        refused = full_device(setting, room=2 * max(sizes) + max(sizes) // 2)
    got, decided = run(setting.placed, setting, name)
    assert bool(refused) == full
    assert decided == decisions
    assert {True, False} == set(decisions)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("name", CACHES)
def test_blocks_that_are_left_out_are_not_brought_in(name: str) -> None:
    setting = Setting(seed=5, slots=1)
    source, copied = setting.placed.stream.source, []
    staged = source.staged

    def noted(block: int) -> torch.Tensor:
        copied.append(block)
        return staged(block)

    source.staged = noted  # type: ignore[method-assign]
    _, decided = run(setting.placed, setting, name)
    blocks, full = len(source.layouts), sum(decided)
    ahead = 1  # a stream begins the block that comes next
    left_out = ahead + (name == "first-block")
    assert full * blocks <= len(copied) <= full * blocks + (STEPS - full) * left_out + ahead
    assert full < STEPS
