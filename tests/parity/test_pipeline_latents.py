"""The whole sampling path against HunyuanVideoFramepackPipeline, in fp32, from picture to latents.

Ours goes through planner, packer, History, generate_section and PackedDiT with the pipeline's
weights read back from disk. Both draw from one generator in the pipeline's order: start posterior,
end posterior, one noise a section.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import product

import pytest
import torch
from tests.parity.pipeline_runs import SCHEDULES, Run, Sides, ours, theirs

from recurvid.packing import PackedContext, layout, pack
from recurvid.planning import ORDERS

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4
SEEN = 20 * TOLERANCE  # what any shift by one must exceed; the smallest here moves 3e-3


def error(sides: Sides, run: Run) -> float:
    """Relative L2 error of the generated latents, of the section where it is largest."""
    expected, actual = theirs(sides, run)[-1], ours(sides, run)
    height, width = run.size
    assert expected.shape == (1, 4, 9 * run.sections + 1, height // 8, width // 8)
    assert actual.shape == expected.shape
    assert torch.equal(actual[:, :, 0], expected[:, :, 0])  # the start picture
    pairs = zip(actual[:, :, 1:].split(9, dim=2), expected[:, :, 1:].split(9, dim=2), strict=True)
    return max(((a - b).norm() / b.norm()).item() for a, b in pairs)


GRID = [
    Run(order, sections, shift, end)
    for order, end in [("inverted", False), ("inverted", True), ("forward", False)]
    for sections in (1, 3, 4, 5, 7)
    for shift in (None, 7.0)
]


@pytest.mark.parametrize("run", GRID, ids=str)
def test_latents_equal_the_pipelines(sides: Sides, run: Run):
    assert error(sides, run) < TOLERANCE


@pytest.mark.parametrize("order", SCHEDULES)
@pytest.mark.parametrize("size", [(96, 96), (64, 160), (160, 64)])
def test_latents_equal_the_pipelines_at_other_sizes(sides: Sides, order: str, size):
    """Latent sizes that the coarse kernels do not divide."""
    assert error(sides, Run(order, 2, size=size, seed=3)) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("order", SCHEDULES)
def test_latents_equal_the_pipelines_at_480p(sides: Sides, order: str):
    """A released bucket, where the dynamic shift is at its cap."""
    assert error(sides, Run(order, 2, steps=2, size=(480, 832), seed=5)) < TOLERANCE


@pytest.mark.parametrize("order", SCHEDULES)
def test_latents_equal_the_pipelines_under_real_guidance(sides: Sides, order: str):
    assert error(sides, Run(order, 2, cfg_scale=2.5, seed=4)) < TOLERANCE


def shifted(frames: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(i + 1 for i in frames)


def shift_packer(monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    """The frames of one kernel reach the model one slot late."""

    def late(*args, **kwargs):
        packed = pack(*args, **kwargs)
        groups = tuple(
            replace(g, frames=replace(g.frames, data=g.frames.data.roll(1, dims=2)))
            if str(g.kernel) == kernel
            else g
            for g in packed.context.groups
        )
        assert any(str(g.kernel) == kernel for g in groups)
        return replace(packed, context=PackedContext(groups))

    monkeypatch.setattr("recurvid.generation.section.pack", late)


def shift_planner(monkeypatch: pytest.MonkeyPatch, order: str, field: str) -> None:
    """One field of every section is off by one latent frame."""
    right = ORDERS[order]

    def wrong(schedule, wish):
        for section in right(schedule, wish):
            value = getattr(section, field)
            off = value + 1 if isinstance(value, int) else shifted(value)
            yield replace(section, **{field: off})

    monkeypatch.setitem(ORDERS, order, lambda schedule, wish: list(wrong(schedule, wish)))


def shift_layout(monkeypatch: pytest.MonkeyPatch, role: str) -> None:
    """The RoPE indices of target, anchors or history are off by one."""

    def wrong(*args, **kwargs):
        right = layout(*args, **kwargs)
        if role == "target":
            return replace(right, target=shifted(right.target))
        groups = (
            replace(g, index=shifted(g.index)) if role in (g.role, str(g.group.kernel)) else g
            for g in right.groups
        )
        return replace(right, groups=tuple(groups))

    monkeypatch.setattr(sys.modules["recurvid.packing.pack"], "layout", wrong)


@pytest.mark.parametrize("order", SCHEDULES)
@pytest.mark.parametrize("kernel", ["k1", "k2", "k4"])
def test_a_shifted_packer_is_seen(sides, monkeypatch, order, kernel):
    shift_packer(monkeypatch, kernel)
    assert error(sides, Run(order, 4)) > SEEN


@pytest.mark.parametrize(
    ("order", "field"),
    [*product(SCHEDULES, ["history", "anchors"]), ("inverted", "gap")],  # F1 has no gap
)
def test_a_shifted_planner_is_seen(sides, monkeypatch, order, field):
    shift_planner(monkeypatch, order, field)
    assert error(sides, Run(order, 4)) > SEEN


@pytest.mark.parametrize("order", SCHEDULES)
@pytest.mark.parametrize("role", ["target", "anchor", "history", "k1", "k2", "k4"])
def test_a_shifted_layout_is_seen(sides, monkeypatch, order, role):
    shift_layout(monkeypatch, role)
    assert error(sides, Run(order, 4)) > SEEN
