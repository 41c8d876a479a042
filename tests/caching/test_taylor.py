"""Extrapolation is exact on polynomials, falls back in order, and takes TeaCache's decisions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.caching.cached_runs import Runs

from recurvid.caching.protocol import Step
from recurvid.caching.taylor import TaylorCache, weights_at
from recurvid.caching.teacache import TeaCache
from recurvid.errors import InputError

# poly(d) of an unmoved probe is 0.0961: with this threshold two steps of three are skipped.
TWO_OF_THREE = 0.25


def told(order: int, residual: np.poly1d, count: int = 12) -> tuple[list[bool], list[float]]:
    """Decisions, and the error of the outcome, where the residual is a polynomial of the call."""
    cache, errors = TaylorCache(TWO_OF_THREE, order), []
    probe = torch.ones(1, 2, 4)
    for i in range(count):
        tokens = torch.full((1, 2, 4), 3.0 * i, dtype=torch.float64)
        after = tokens + float(residual(i))

        def blocks(after: torch.Tensor = after):
            yield after

        out = cache.run(Step(i, count, 0.5), tokens, lambda: probe, blocks)
        errors.append(float((out - after).abs().max()))
    return cache.computed, errors


@pytest.mark.parametrize("order", [1, 2])
def test_exact_on_polynomials_of_its_order(order: int) -> None:
    exact = np.poly1d([0.3, -1.0, 2.0][2 - order :])
    computed, errors = told(order, exact)
    assert computed == [True, False, False] * 3 + [True, False, True]
    warm = 3 * order + 1  # until order + 1 steps are computed
    assert max(errors[warm:]) < 1e-4
    assert errors[1] > 0.1  # one step known: it is repeated
    beyond = told(order, np.poly1d([0.05, *exact.coefficients]))[1]
    assert max(beyond[warm:]) > 0.1


def test_the_second_order_begins_as_the_first() -> None:
    _, errors = told(2, np.poly1d([0.5, 1.0]))
    assert max(errors[4:]) < 1e-4  # exact on a line from the second computed step on


def test_weights_are_those_of_the_polynomial() -> None:
    # Order 1 at 8 from 6 and 3: 1 + 2/3 and -2/3.
    assert weights_at(8, [6, 3]) == pytest.approx([5 / 3, -2 / 3])
    nodes, values = [9, 7, 4], [1.0, -2.0, 0.5]
    fitted = np.polyval(np.polyfit(nodes, values, 2), 11)
    assert np.dot(weights_at(11, nodes), values) == pytest.approx(fitted)


def test_decisions_are_teacaches_where_the_tokens_are() -> None:
    """In the run of a model the tokens part after the first told step; up to there they agree."""
    runs = Runs(steps=25)
    runs.finish(lambda: TeaCache(0.3))
    runs.finish(lambda: TaylorCache(0.3, 1))
    tea, taylor = (cache.computed for cache in runs.made)
    upto = tea.index(False) + 1
    assert tea[:upto] == taylor[:upto]
    assert not all(taylor)


def test_bf16_keeps_the_digits_of_the_differences() -> None:
    """Weights of (6, -8, 3) on nearly equal values: summed in bf16 the error would be 0.05."""
    cache = TaylorCache(TWO_OF_THREE, 2)
    probe = torch.ones(1, 1, 1)
    values = torch.linspace(-4, 4, 97).view(1, 1, -1).bfloat16()
    out = tokens = torch.zeros_like(values)
    for i in range(8):

        def blocks():
            yield values

        out = cache.run(Step(i, 12, 0.5), tokens, lambda: probe, blocks)
    assert cache.computed[-1] is False
    assert torch.equal(out, values)


@pytest.mark.parametrize("order", [0, 3])
def test_other_orders_are_refused(order: int) -> None:
    with pytest.raises(InputError, match="orders 1 and 2"):
        TaylorCache(0.1, order)
