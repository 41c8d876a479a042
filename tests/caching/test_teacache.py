"""TeaCache against its description, written again in numpy, and against decisions by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from tests.caching.cached_runs import CONFIG, Runs, conditioning, tiny_model
from tests.models.dit_cases import group
from torch import Tensor

from recurvid.caching.protocol import Step
from recurvid.caching.teacache import DistanceRule, TeaCache
from recurvid.latents import LatentFrames
from recurvid.models.packed_dit.model import PackedDiT
from recurvid.packing.pack import PackedContext


class Described:
    """The prose, step by step, in float64.

    m is block 0's modulated input over history and noisy tokens; d = mean|m - m_prev| over
    mean|m_prev|; poly(d) is added up; the blocks run when the sum reaches the threshold, then it is
    reset, and always in the first and the last step, with a reset; m_prev is updated every step.
    The stored residual is (after all blocks - before) over all image tokens and is added before
    norm_out.
    """

    def __init__(self, model: PackedDiT, threshold: float, steps: int):
        self.model, self.threshold, self.steps = model, threshold, steps
        self.poly = np.poly1d([733.226126, -401.131952, 67.5869174, -3.14987800, 0.0961237896])
        self.sum = 0.0
        self.margin = np.inf
        self.decisions: list[bool] = []
        self.m_prev: Any = None
        self.residual: Any = None

    def modulated(self, tokens: Tensor, temb: Tensor) -> Any:
        block: Any = self.model.transformer_blocks[0]
        linear = block.norm1.linear
        weight, bias = linear.weight.double().numpy(), linear.bias.double().numpy()
        t = temb.double().numpy()
        vectors = (t / (1 + np.exp(-t))) @ weight.T + bias
        width = CONFIG.width
        shift, scale = vectors[:, None, :width], vectors[:, None, width : 2 * width]
        x = tokens.double().numpy()
        centred = x - x.mean(-1, keepdims=True)
        normal = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return normal * (1 + scale) + shift

    def velocity(self, x: Tensor, sigma: float, told: Any, context: Any, target: Any) -> Tensor:
        model, i = self.model, len(self.decisions)
        prompt = model.embed_prompt(told, torch.tensor([1000 * sigma]))
        section = model.embed_section(context, target)
        assert section.tokens is not None
        tokens = torch.cat([section.tokens, model.x_embedder(x)], dim=1)
        m = self.modulated(tokens, prompt.temb)
        if i in (0, self.steps - 1):
            compute = True
        else:
            d = np.abs(m - self.m_prev).mean() / np.abs(self.m_prev).mean()
            self.sum += self.poly(d)
            self.margin = min(self.margin, abs(self.sum - self.threshold))
            compute = self.sum >= self.threshold
        if compute:
            self.sum = 0.0
        self.m_prev = m
        self.decisions.append(bool(compute))
        if compute:
            after = model.run_blocks(tokens, prompt, section)
            self.residual = (after - tokens).numpy()
        else:
            after = tokens + torch.from_numpy(self.residual)
        noisy = after.shape[1] - section.tokens.shape[1]
        return model._project_out(after[:, -noisy:], prompt, x.shape)


@pytest.mark.parametrize(
    ("seed", "steps", "threshold"),
    [(0, 25, 0.15), (1, 25, 0.3), (2, 12, 0.15), (3, 25, 1.0), (4, 8, 0.2), (5, 25, 0.5)],
)
def test_decisions_and_latents_are_those_described(seed: int, steps: int, threshold: float) -> None:
    model = tiny_model(seed)
    runs = Runs(model=model, steps=steps)
    got = runs.finish(lambda: TeaCache(threshold), seed)

    described = Described(model, threshold, steps)
    g = torch.Generator().manual_seed(seed)
    frames = torch.randn(1, 4, 2, 4, 6, generator=g)
    context = PackedContext((group("k1", frames, torch.tensor([[0, 9]])),))
    noise = torch.Generator().manual_seed(1000 + seed)
    x = torch.randn(1, 4, 3, 4, 6, generator=noise)
    target = LatentFrames(x, torch.tensor([[5, 6, 7]]))
    u = np.linspace(1, 0, steps + 1)
    sigmas = 3 * u / (1 + 2 * u)
    for sigma, following in pairwise(sigmas):
        v = described.velocity(x, float(sigma), conditioning(seed), context, target)
        x = x + float(following - sigma) * v
    assert described.margin > 1e-4, "a decision on a knife's edge proves nothing"
    assert runs.made[0].computed == described.decisions
    assert 2 < sum(described.decisions) < steps
    assert (got - x).norm() / x.norm() < 1e-4


def decisions(changes: list[float], threshold: float = 0.15) -> list[bool]:
    """What the rule says where the probe grows by these relative changes, from call to call."""
    rule, value, made = DistanceRule(threshold), 1.0, []
    count = len(changes) + 1
    for i, change in enumerate([0.0, *changes]):
        value *= 1 + change
        probe = torch.full((1, 3, 4), value, dtype=torch.float64)
        made.append(judged(rule, i, count, probe))
    return made


def judged(rule: DistanceRule, i: int, count: int, seen: Tensor) -> bool:
    """Ask the rule and tell it what was done."""
    covered = rule.covered(Step(i, count, 0.5), seen)
    due = rule.is_due(covered)
    if due:
        rule.computed(seen)
    else:
        rule.passed_over(seen, covered)
    return due


def test_decisions_by_hand() -> None:
    # poly(0) = 0.0961: two unchanged steps are 0.192, so every other one is computed.
    assert decisions([0] * 7) == [True, False, True, False, True, False, True, True]
    # poly(0.05) = 0.0620, three of them 0.186: two skips in a row.
    assert decisions([0.05] * 8) == [True, False, False, True, False, False, True, False, True]
    # poly(0.4) = 4.75 alone is above.
    assert decisions([0.4] * 4) == [True] * 5
    # Compared with the step before, also where that one was skipped: the large change counts once.
    assert decisions([0, 0.4, 0.0, 0.0, 0.0], 0.25) == [True, False, True, False, False, True]


def test_a_sum_that_reaches_the_threshold_computes() -> None:
    rule, probe = DistanceRule(0.5, coefficients=(0.25,)), torch.ones(1, 2, 4)
    made = [judged(rule, i, 7, probe) for i in range(6)]
    assert made == [True, False, True, False, True, False]


def test_polynomial_by_hand() -> None:
    rule = DistanceRule(0.15)
    assert rule.distance(0.0) == pytest.approx(0.0961237896, abs=1e-12)
    # 733.226126e-4 - 401.131952e-3 + 67.5869174e-2 - 3.149878e-1 + 0.0961237896
    assert rule.distance(0.1) == pytest.approx(0.1291957, abs=1e-6)
    assert rule.distance(0.05) == pytest.approx(0.0620384, abs=1e-6)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_changes_that_are_no_number_compute(value: float) -> None:
    rule = DistanceRule(10.0)
    probe = torch.full((1, 2, 4), value)
    assert all(judged(rule, i, 5, probe) for i in range(5))


def test_zero_computes_whatever_the_polynomial() -> None:
    rule = DistanceRule(0.0, coefficients=(-1.0,))
    probe = torch.ones(1, 2, 4)
    assert all(judged(rule, i, 5, probe) for i in range(5))
