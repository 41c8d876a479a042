"""Time left."""

from __future__ import annotations

import pytest

from recurvid.jobs.estimate import Estimate


def test_nothing_is_said_before_it_is_measured():
    estimate = Estimate(2)
    estimate.step("load", 1, 1, 0.0)
    estimate.step("denoise", 1, 10, 5.0)  # with loading and packing in it
    assert estimate.seconds_left() is None


def test_steps_and_decoding_are_counted():
    estimate, now = Estimate(3), 100.0
    for step in range(1, 6):
        estimate.step("denoise", step, 10, now)
        now += 2.0
    assert estimate.seconds_left() == 50.0  # 25 steps of 2 s; decoding was not seen yet
    for step in range(6, 11):
        estimate.step("denoise", step, 10, now)
        now += 2.0
    estimate.step("decode", 0, 1, now)
    estimate.step("decode", 1, 1, now + 5)
    estimate.section(now + 5)
    assert estimate.seconds_left() == 20 * 2 + 2 * 5


def test_what_was_made_before_does_not_count():
    estimate = Estimate(10, done=9)
    for step in range(1, 5):
        estimate.step("denoise", step, 10, float(step))
    assert estimate.seconds_left() == 6.0


@pytest.mark.parametrize("slow", [1, 2])
def test_a_few_slow_steps_do_not_upset_it(slow: int):
    estimate, now = Estimate(1), 0.0
    for step in range(1, 10):
        estimate.step("denoise", step, 20, now)
        now += 60.0 if step <= slow else 1.0
    assert estimate.seconds_left() == 11.0
