from __future__ import annotations

import pytest

from recurvid.ops.linear import tma_int8, triton_int8
from recurvid.ops.linear.triton_int8 import AVAILABLE
from recurvid.ops.linear.tuning import at_quantiles, time_calls


@pytest.mark.parametrize(
    ("times", "quantiles", "found"),
    [
        ([3.0, 1.0, 2.0], (0.5, 0.0, 1.0), [2.0, 1.0, 3.0]),
        ([5.0], (0.5, 0.2, 0.8), [5.0, 5.0, 5.0]),
        ([7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], (0.5, 0.2, 0.8), [4.0, 2.0, 6.0]),
    ],
)
def test_quantiles(times: list[float], quantiles: tuple[float, ...], found: list[float]):
    assert at_quantiles(times, quantiles) == found


@pytest.mark.skipif(not AVAILABLE, reason="Triton is not installed")
def test_tiles_are_chosen_without_memory_of_its_own():
    """Triton's timing takes 256 MiB, in the middle of a step that has planned for all there is."""
    for kernel in (tma_int8.tma_kernel, triton_int8.int8_kernel):
        assert kernel.do_bench is time_calls  # pyright: ignore
