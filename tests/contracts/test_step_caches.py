"""What every step cache promises. A new registry entry is picked up by itself."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest

import pytest
import torch
from tests.caching.cached_runs import CALM, Runs, conditioning, maker
from torch import Tensor

from recurvid.caching.protocol import Blocks, Probe, Step, StepCache
from recurvid.caching.registry import CACHES, new_cache
from recurvid.caching.thresholds import OFF, THRESHOLDS
from recurvid.errors import InputError
from recurvid.generation.denoising import Guidance
from recurvid.generation.request import STEP_CACHES
from recurvid.sampling.denoiser import guided
from recurvid.sampling.solvers import SOLVERS

EVERY = pytest.mark.parametrize("name", CACHES)
LOOSE = 10.0  # the largest threshold that a request may ask


def test_names_are_the_same_everywhere() -> None:
    assert list(THRESHOLDS) == list(CACHES)
    assert (OFF, *CACHES) == STEP_CACHES


@EVERY
@pytest.mark.parametrize("solver", ["euler", "unipc", "heun"])
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_threshold_zero_is_off_to_the_bit(name: str, solver: str, steps: int) -> None:
    runs = Runs(steps=steps, solver=solver)
    plain = runs.finish(None)
    assert torch.equal(runs.finish(maker(name, 0.0)), plain)
    assert all(runs.made[0].computed)


@EVERY
def test_a_loose_threshold_saves_blocks_and_changes_the_result(name: str) -> None:
    plain, cached = Runs(), Runs()
    exact, told = plain.finish(None), cached.finish(maker(name, LOOSE))
    assert plain.blocks == [10, 10, 10]
    assert cached.blocks[-1] == sum(cached.made[0].computed) < 10
    assert not torch.equal(told, exact)
    assert torch.isfinite(told).all()


@EVERY
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("threshold", [0.0, None, LOOSE])
def test_blocks_never_run_more_often_than_without(
    name: str, solver: str, threshold: float | None
) -> None:
    plain, cached = Runs(solver=solver), Runs(solver=solver)
    plain.finish(None)
    cached.finish(maker(name, threshold))
    calls = plain.blocks[0]
    assert calls == (19 if solver == "heun" else 10)
    assert len(cached.made[0].computed) == calls
    assert all(count <= calls for count in cached.blocks)


@EVERY
def test_the_first_step_is_computed(name: str) -> None:
    for steps in (1, 2, 3, 25):
        runs = Runs(steps=steps)
        runs.finish(maker(name, LOOSE))
        assert runs.made[0].computed[0]


@EVERY
def test_two_interleaved_runs_do_not_mix(name: str) -> None:
    runs = Runs()
    alone = [runs.finish(maker(name, LOOSE), seed) for seed in (1, 2)]
    assert not all(runs.made[0].computed)
    pair = [runs.start(maker(name, LOOSE), seed) for seed in (1, 2)]
    one, two = list(zip_longest(*pair))[-1]
    assert torch.equal(one.x, alone[0])
    assert torch.equal(two.x, alone[1])


class Shared:
    """The original's mistake: one state for both guidance branches."""

    def __init__(self, new: Callable[[], StepCache]):
        self.cache: StepCache | None = None
        self.new = new

    def __call__(self) -> StepCache:
        self.cache = self.cache or self.new()
        return self.cache


@EVERY
def test_each_guidance_branch_has_its_own(name: str) -> None:
    runs = Runs()
    guidance = Guidance(3.0, 0.0, conditioning(9))
    got = runs.finish(maker(name, LOOSE), guidance=guidance)
    assert len(runs.made) == 2
    assert [len(cache.computed) for cache in runs.made] == [10, 10]

    # The same as two caches that are held apart by hand, and mixed outside.
    positive = runs.denoiser(maker(name, LOOSE))
    negative = runs.denoiser(maker(name, LOOSE), told=conditioning(9))
    *_, last = runs.solve(guided(positive, negative, 3.0))
    assert torch.equal(got, last.x)
    with pytest.raises(InputError, match="one guidance branch"):
        runs.finish(Shared(maker(name, LOOSE)), guidance=guidance)


@EVERY
def test_nothing_stays_on_the_model(name: str) -> None:
    runs = Runs()
    before = {module: set(vars(module)) for module in runs.model.modules()}
    weights = {key: value.clone() for key, value in runs.model.state_dict().items()}
    runs.finish(maker(name, LOOSE))
    assert {module: set(vars(module)) for module in runs.model.modules()} == before
    after = runs.model.state_dict()
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[key], weights[key]) for key in weights)


@EVERY
def test_a_run_begins_anew(name: str) -> None:
    """A cache handed a first step forgets what was, also when a run was broken off."""
    runs = Runs()
    fresh = runs.finish(maker(name, LOOSE), 2)
    pattern = runs.made[-1].computed
    used = new_cache(name, LOOSE, CALM)
    broken = runs.start(lambda: used, 1)
    for _ in range(4):
        next(broken)
    assert torch.equal(runs.finish(lambda: used, 2), fresh)
    assert used.computed == pattern


class Trouble(Exception):
    pass


class Fallible:
    """Something fails once in a call, which is then made again, as a fuller device has it.

    ``after`` blocks run before it; -1 fails the probe.
    """

    def __init__(self, inner: StepCache, call: int, after: int):
        self.inner, self.call, self.after = inner, call, after
        self.failed = False

    @property
    def computed(self) -> list[bool]:
        return self.inner.computed

    def run(self, step: Step, tokens: Tensor, probe: Probe, blocks: Blocks) -> Tensor:
        def failing_probe() -> Tensor:
            raise Trouble

        def failing_blocks():
            running = blocks()
            for _ in range(self.after):
                yield next(running)
            raise Trouble

        if step.index == self.call:
            try:
                if self.after < 0:
                    return self.inner.run(step, tokens, failing_probe, blocks)
                return self.inner.run(step, tokens, probe, failing_blocks)
            except Trouble:
                self.failed = True
        return self.inner.run(step, tokens, probe, blocks)


@EVERY
@pytest.mark.parametrize("threshold", [0.3, LOOSE])
@pytest.mark.parametrize("after", [-1, 0, 1, 2, 3])
def test_a_call_that_failed_can_be_made_again(name: str, after: int, threshold: float) -> None:
    runs = Runs()
    expected = runs.finish(maker(name, threshold))
    pattern, failed = runs.made[-1].computed, 0
    for call in range(10):
        cache = Fallible(new_cache(name, threshold, CALM), call, after)
        assert torch.equal(runs.finish(lambda cache=cache: cache), expected)
        assert cache.computed == pattern
        failed += cache.failed
    assert failed >= (0 if after < 0 else sum(pattern))


def drive(cache: StepCache, count: int, of: int, tokens: Callable[[int], Tensor]) -> list[Tensor]:
    """Steps of a run over two blocks that add one and double."""

    def blocks(x: Tensor):
        yield x + 1
        yield (x + 1) * 2

    results = []
    for i in range(count):
        x = tokens(i)
        step = Step(i, of, 1 - i / of)
        results.append(cache.run(step, x, lambda x=x: x * 0.5, lambda x=x: blocks(x)))
    return results


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_computed_steps_are_the_blocks_own_and_dtypes_stay(name: str, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    start, way = torch.randn(2, 5, 8, generator=g), torch.randn(2, 5, 8, generator=g)

    def tokens(i: int) -> Tensor:
        return (start + 0.01 * i * way).to(dtype)

    cache = new_cache(name, LOOSE, CALM)
    results = drive(cache, 10, 10, tokens)
    assert False in cache.computed
    for i, (computed, out) in enumerate(zip(cache.computed, results, strict=True)):
        assert out.dtype == dtype
        exact = (tokens(i) + 1) * 2
        assert not computed or torch.equal(out, exact)
        # The residual x + 2 moves by 0.01 a step: what is told is near.
        assert (out.float() - exact.float()).abs().max() < 0.3


@EVERY
def test_a_call_too_many_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="call 4 of 3"):
        drive(new_cache(name, None, CALM), 4, 3, lambda i: torch.ones(1, 2, 4))


@EVERY
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_comes_out(name: str, bad: float) -> None:
    """It reaches the guard that stops the run, in whichever step it appears."""
    for since in range(10):
        cache = new_cache(name, LOOSE, CALM)
        got = drive(
            cache, 10, 10, lambda i, since=since: torch.full((1, 2, 4), bad if i >= since else 1.0)
        )
        assert all(torch.isfinite(out).all() for out in got[:since])
        assert not any(torch.isfinite(out).any() for out in got[since:])


@EVERY
@pytest.mark.parametrize("threshold", [-0.1, float("nan"), float("inf")])
def test_impossible_thresholds_are_refused(name: str, threshold: float) -> None:
    with pytest.raises(InputError, match=f"{name}.*threshold"):
        new_cache(name, threshold, CALM)


def test_unknown_names_and_missing_calibrations_are_refused() -> None:
    with pytest.raises(InputError, match=r"'tea' is unknown; one of teacache"):
        new_cache("tea")
    with pytest.raises(InputError, match="magcache: there is no calibration"):
        new_cache("magcache")
