from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.generation.tiny_components import DIT, tiny_backbone
from torch import Tensor

from recurvid.conditioning import Conditioning
from recurvid.events import Progress
from recurvid.generation.denoising import Guidance
from recurvid.generation.history import History
from recurvid.generation.section import Recipe, generate_section
from recurvid.latents import LatentFrames, LatentGeometry
from recurvid.packing import PackingSchedule
from recurvid.planning import plan
from recurvid.sampling.noise import SectionNoise
from recurvid.sampling.sigmas import flow_sigmas
from recurvid.sampling.solvers import SOLVERS
from recurvid.sections import SectionPlan

SCHEDULE = PackingSchedule.parse("f1k1_x_g9_f1k1f2k2f16k4_td")
GEOMETRY = LatentGeometry(4, 4, 8)


class Spy:
    """A backbone whose velocity is known, and which remembers what it was told."""

    def __init__(self, velocity: Callable[[Tensor, Conditioning], Tensor]):
        self.velocity = velocity
        self.seen: list[tuple[LatentFrames, Tensor, Conditioning, Any]] = []

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def embed_section(self, context: Any, target: LatentFrames) -> Any:
        return ("state", len(self.seen))

    def __call__(
        self,
        target: LatentFrames,
        timestep: Tensor,
        conditioning: Conditioning,
        context: Any,
        *,
        attention: Any = None,
        prompt: Any = None,
        section: Any = None,
        cache: Any = None,
    ) -> Tensor:
        self.seen.append((target, timestep, conditioning, context))
        return self.velocity(target.data, conditioning)


def conditioning(value: float = 0.0) -> Conditioning:
    text = torch.full((1, 3, 8), value)
    return Conditioning(text, torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, 8))


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "schedule": SCHEDULE,
        "solver": SOLVERS["euler"],
        "sigmas": flow_sigmas(4, 2.0),
        "noise": SectionNoise(3),
        "geometry": GEOMETRY,
        "height": 32,
        "width": 64,
        "guidance": Guidance(),
        "device": torch.device("cpu"),
        "dtype": torch.float32,
    }
    return Recipe(**(values | changes))


def past(sections: int) -> tuple[SectionPlan, History]:
    planned = plan("inverted", SCHEDULE, sections)
    picture = LatentFrames.of(torch.full((1, 4, 1, 4, 8), 0.5), [0])

    def read(index: int) -> LatentFrames:
        frames = planned.sections[index].frames
        return LatentFrames.of(torch.full((1, 4, len(frames), 4, 8), float(index)), list(frames))

    return planned, History(planned, SCHEDULE, picture, read)


def finish(run: Any) -> tuple[list[Progress], LatentFrames]:
    events: list[Progress] = []
    while True:
        try:
            events.append(next(run))
        except StopIteration as end:
            return events, end.value


def test_a_known_velocity_is_integrated_from_the_sections_noise() -> None:
    planned, history = past(2)
    section = planned.sections[1]
    noise = SectionNoise(3).draw(1, (1, 4, 9, 4, 8))
    spy = Spy(lambda x, _: torch.full_like(x, 0.25))
    events, made = finish(generate_section(section, history, spy, conditioning(), recipe()))
    # dx/dsigma = v, from sigma 1 to 0: x = noise - v.
    assert torch.allclose(made.data, noise - 0.25, atol=1e-6)
    assert made.index.tolist() == [list(range(1, 10))]
    assert [(e.section, e.step, e.steps) for e in events] == [(1, n, 4) for n in (1, 2, 3, 4)]


def test_the_model_is_told_timestep_index_and_context() -> None:
    planned, history = past(2)
    spy = Spy(lambda x, _: torch.zeros_like(x))
    finish(generate_section(planned.sections[1], history, spy, conditioning(), recipe()))
    assert len(spy.seen) == 4
    # sigma = shift u / (1 + (shift - 1) u), u = 1, 3/4, 1/2, 1/4, shift 2; then times 1000.
    times = [float(time) for _, time, _, _ in spy.seen]
    assert times == pytest.approx([1000, 6000 / 7, 2000 / 3, 400])
    target, time, _, context = spy.seen[0]
    assert time.shape == (1,)
    # The released layout at gap 0: start 0, targets 1..9, history 10, 11..12, 13..28.
    assert target.index.tolist() == [list(range(1, 10))]
    by_kernel = {str(group.kernel): group.frames for group in context.groups}
    assert list(by_kernel) == ["k4", "k2", "k1"]
    assert by_kernel["k1"].index.tolist() == [[0, 10]]
    assert by_kernel["k2"].index.tolist() == [[11, 12]]
    assert by_kernel["k4"].index.tolist() == [list(range(13, 29))]
    # The picture, then the frame of section 0 that follows; then its next eight, then nothing.
    assert by_kernel["k1"].data[0, 0, :, 0, 0].tolist() == [0.5, 0.0]
    planned, history = past(3)
    spy = Spy(lambda x, _: torch.zeros_like(x))
    finish(generate_section(planned.sections[2], history, spy, conditioning(), recipe()))
    by_kernel = {str(group.kernel): group.frames for group in spy.seen[0][3].groups}
    assert by_kernel["k1"].data[0, 0, :, 0, 0].tolist() == [0.5, 1.0]
    assert by_kernel["k4"].data[0, 0, :, 0, 0].tolist() == [1.0] * 6 + [0.0] * 10


def test_guidance_takes_two_passes_and_steers_away() -> None:
    planned, history = past(1)
    spy = Spy(lambda x, told: torch.full_like(x, float(told.text[0, 0, 0])))
    guidance = Guidance(cfg_scale=3.0, negative=conditioning(1.0))
    run = generate_section(
        planned.sections[0], history, spy, conditioning(2.0), recipe(guidance=guidance)
    )
    made = finish(run)[1]
    assert len(spy.seen) == 8
    noise = SectionNoise(3).draw(0, (1, 4, 9, 4, 8))
    # v = negative + 3 (positive - negative) = 1 + 3 = 4
    assert torch.allclose(made.data, noise - 4.0, atol=1e-5)


def test_scale_one_never_asks_the_negative() -> None:
    planned, history = past(1)
    spy = Spy(lambda x, told: torch.zeros_like(x))
    guidance = Guidance(cfg_scale=1.0, negative=conditioning(1.0))
    finish(
        generate_section(
            planned.sections[0], history, spy, conditioning(), recipe(guidance=guidance)
        )
    )
    assert len(spy.seen) == 4


def test_model_inputs_are_cast_and_the_state_is_not() -> None:
    planned, history = past(1)
    spy = Spy(lambda x, _: (x * 0 + 2**-12).to(torch.bfloat16))
    made = finish(
        generate_section(
            planned.sections[0], history, spy, conditioning(), recipe(dtype=torch.bfloat16)
        )
    )[1]
    target, time, _, context = spy.seen[0]
    assert target.data.dtype == torch.bfloat16
    assert time.dtype == torch.float32
    assert all(group.frames.data.dtype == torch.bfloat16 for group in context.groups)
    # 2**-12 would vanish beside a noise value of bfloat16.
    noise = SectionNoise(3).draw(0, (1, 4, 9, 4, 8))
    assert made.data.dtype == torch.float32
    assert torch.allclose(made.data, noise - 2**-12, atol=1e-6)


def test_the_true_backbone_gives_finite_latents_that_depend_on_the_context() -> None:
    planned, history = past(3)
    backbone = tiny_backbone()
    text = Conditioning(
        torch.randn(1, 5, DIT.text_embed_dim),
        torch.ones(1, 5, dtype=torch.bool),
        torch.randn(1, DIT.pooled_projection_dim),
    )
    a = finish(generate_section(planned.sections[2], history, backbone, text, recipe()))[1]
    _, other = past(3)
    other._given = LatentFrames.of(torch.full((1, 4, 1, 4, 8), -2.0), [0])
    b = finish(generate_section(planned.sections[2], other, backbone, text, recipe()))[1]
    assert torch.isfinite(a.data).all()
    assert not torch.equal(a.data, b.data)
