"""The first-block cache against its description, block by block."""

from __future__ import annotations

import pytest
import torch
from tests.caching.cached_runs import Runs, tiny_model
from torch import Tensor

from recurvid.caching.first_block import FirstBlockCache
from recurvid.caching.protocol import Step


@pytest.mark.parametrize(("seed", "threshold"), [(0, 0.8), (1, 0.6), (2, 0.8)])
def test_decisions_and_outcomes_are_those_described(seed: int, threshold: float) -> None:
    """Every quantity is read off the blocks of the model by hooks, in float64."""
    model = tiny_model(seed)
    runs = Runs(model=model, steps=20)
    seen: list[dict[str, Tensor]] = []  # a call: tokens before and after the first block, and out
    first = model.transformer_blocks[0]
    first.register_forward_hook(
        lambda _, inputs, out: seen.append({"before": inputs[0].double(), "first": out[0].double()})
    )
    last = model.single_transformer_blocks[-1]
    last.register_forward_hook(lambda _, i, out: seen[-1].update(out=out.double()))
    runs.finish(lambda: FirstBlockCache(threshold), seed)
    decisions, reference = [], None
    for i, call in enumerate(seen):
        added = call["first"] - call["before"]
        compute = i in (0, 19)
        if reference is not None and not compute:
            change = (added - reference).abs().mean() / reference.abs().mean()
            assert abs(change - threshold) > 1e-4
            compute = bool(change >= threshold)
        assert ("out" in call) == compute
        decisions.append(compute)
        if compute:
            reference = added  # the last step that was computed, not the last step
    assert runs.made[0].computed == decisions
    assert 2 < sum(decisions) < 20
    assert runs.blocks[0] == 20
    assert runs.blocks[-1] == sum(decisions)


def test_a_skipped_step_adds_what_the_rest_added_last() -> None:
    cache, log = FirstBlockCache(0.5), []

    def blocks(x: Tensor, rest: float):
        try:
            yield x + 2  # the first block adds 2
            log.append("rest")
            yield x + 2 + rest
        finally:
            log.append("closed")

    def call(i: int, x: float, rest: float) -> float:
        tokens = torch.full((1, 2, 3), x)
        out = cache.run(Step(i, 3, 0.5), tokens, lambda: tokens, lambda: blocks(tokens, rest))
        return float(out[0, 0, 0])

    assert call(0, 1.0, 10.0) == 13.0
    assert call(1, 5.0, 99.0) == 5 + 2 + 10
    assert log == ["rest", "closed", "closed"]  # the blocks are not left half run
    assert call(2, 1.0, 20.0) == 23.0
