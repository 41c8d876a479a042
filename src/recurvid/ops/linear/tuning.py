"""How long a kernel takes, for choosing among its tiles in the middle of a run.

Triton's own way writes 256 MiB between calls, so that nothing is read from the card's cache. Where
a plan has given nearly all of a card to weights, that does not fit any more. A product's matrices
are about as large as the cache, and in a step they come out of it as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

#: Calls before timing begins, and calls that are timed.
WARM_UP, TIMED = 2, 7


def time_calls(call: Callable[[], object], quantiles: Sequence[float]) -> list[float]:
    """Milliseconds of a call on the current CUDA stream, at the quantiles; allocates nothing."""
    for _ in range(WARM_UP):
        call()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(TIMED + 1)]
    marks[0].record()
    for mark in marks[1:]:
        call()
        mark.record()
    marks[-1].synchronize()
    return at_quantiles([a.elapsed_time(b) for a, b in pairwise(marks)], quantiles)


def at_quantiles(times: Sequence[float], quantiles: Sequence[float]) -> list[float]:
    """Of so many times those that stand at the quantiles, 0 to 1; the nearest one each."""
    ordered = sorted(times)
    return [ordered[round(q * (len(ordered) - 1))] for q in quantiles]
