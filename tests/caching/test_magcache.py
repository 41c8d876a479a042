"""MagCache's schedule by hand, and its calibration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.caching.cached_runs import Runs

from recurvid.caching.calibration import Calibration, RatioRecorder
from recurvid.caching.magcache import PUBLISHED, MagCache, MagRule
from recurvid.caching.protocol import Step
from recurvid.caching.registry import new_cache
from recurvid.errors import CheckpointError, InputError


def schedule(calibration: Calibration, count: int, rule: MagRule | None = None) -> str:
    """One letter a call: C computed, s skipped."""
    cache = MagCache(calibration, rule)
    tokens = torch.ones(1, 2, 4)

    def blocks():
        yield tokens * 2

    for i in range(count):
        cache.run(Step(i, count, 0.5), tokens, lambda: tokens, blocks)
    return "".join("C" if computed else "s" for computed in cache.computed)


def test_published_schedules() -> None:
    # Inverted, from call 6 on: 1.02344 s (error .023), 1.03906: size 1.0634, error .087 s, third C;
    # 1.02344 s, 1.03906 s (.087), third C; 1.02344 s, 1.03125: 1.0554, .079 s, third C;
    # 1.02344 s, 1.00781: 1.0314, .055 s, third C; .98828 s, 1.0 s, third C; .98828 s,
    # .94531: .9342, .078 s, third C (.93359 jumps too), .78516 jumps.
    assert schedule(PUBLISHED["framepack"], 25) == "CCCCCC" + "ssC" * 5 + "ssCC"
    # F1: 1.00781 s, 1.03125: 1.0393, .047 s, C; 1.00781 s, 1.03125 s, C; 1.01562 s, 1.01562 s, C;
    # 1.00781 s, .98438 s, C; .98438 s, .96875: .9536, .062 s, C; .97266 s (.027), .92578 jumps C;
    # .95703 s, .77734 C.
    assert schedule(PUBLISHED["framepack-f1"], 25) == "CCCCCC" + "ssC" * 5 + "sCsC"


def test_each_part_of_the_rule() -> None:
    flat = Calibration({12: (1.0,) * 12})
    assert schedule(flat, 12) == "CCCssCssCssC"
    assert schedule(flat, 12, MagRule(longest=1)) == "CCCsCsCsCsCs"
    assert schedule(flat, 12, MagRule(kept=0.5)) == "CCCCCCssCssC"
    assert schedule(flat, 12, MagRule(kept=0.0)) == "CssCssCssCss"
    assert schedule(flat, 12, MagRule(threshold=0.0)) == "C" * 12
    jumps = Calibration({12: (1.0,) * 6 + (1.07,) * 3 + (0.93, 1.0, 1.0)})
    assert schedule(jumps, 12, MagRule(threshold=9.0)) == "CCCssCCCCCss"
    slow = Calibration({12: (0.95,) * 12})
    # 1 - .95 = .05; 1 - .9025 = .0975: .1475 in all.
    assert schedule(slow, 12, MagRule(threshold=0.147)) == "CCCsCsCsCsCs"
    assert schedule(slow, 12, MagRule(threshold=0.148)) == "CCCssCssCssC"
    # Up and down again is no error of one, but the way there is.
    swing = Calibration({12: (1.05, 1 / 1.05) * 6})
    # .048, 0, .048, 0 and one more; then .05, 0, .05, 0.
    assert schedule(swing, 12, MagRule(threshold=0.11, longest=9)) == "CCCssssCssss"


def test_a_ratio_that_is_missing_is_the_nearest_one() -> None:
    four = Calibration({4: (1.0, 0.9, 0.8, 0.7)})
    assert four.at(4) == (1.0, 0.9, 0.8, 0.7)
    assert four.at(1) == (0.7,)
    assert four.at(2) == (1.0, 0.7)
    assert four.at(3) == (1.0, 0.8, 0.7)  # place 1.5 goes to the even one, as numpy rounds
    assert four.at(7) == (1.0, 1.0, 0.9, 0.8, 0.8, 0.8, 0.7)
    two = Calibration({4: (1.0, 0.9, 0.8, 0.7), 20: (1.0,) * 19 + (0.5,)})
    assert 0.5 in two.at(13)
    assert 0.7 in two.at(11)


def test_published_ratios_are_whole() -> None:
    # A copy of the published text.
    inverted = """1.30469 1.22656 1.05469 1.02344 1.03906 1.02344 1.03906 1.05469 1.02344 1.03906
        0.99609 1.02344 1.03125 1.01562 1.02344 1.00781 1.03906 0.98828 1.0 1.0 0.98828 0.94531
        0.93359 0.78516"""
    f1 = """1.27344 1.07031 1.03906 1.00781 1.00781 1.00781 1.03125 1.04688 1.00781 1.03125 0.99219
        1.01562 1.01562 1.01562 1.00781 0.98438 1.05469 0.98438 0.96875 1.03125 0.97266 0.92578
        0.95703 0.77734"""
    for name, text in {"framepack": inverted, "framepack-f1": f1}.items():
        assert PUBLISHED[name].runs == {25: (1.0, *map(float, text.split()))}


def test_the_recorder_measures_and_skips_nothing() -> None:
    recorder = RatioRecorder()
    sizes = torch.tensor([1.0, 2.0]).view(1, 2, 1)  # two tokens of different size
    for i, factor in enumerate([4.0, 2.0, -1.0, 3.0]):
        tokens = torch.randn(1, 2, 5)

        def blocks(out: torch.Tensor = tokens + factor * sizes):
            yield out

        recorder.run(Step(i, 4, 0.5), tokens, lambda: tokens, blocks)  # noqa: B023
    assert recorder.ratios == pytest.approx([1.0, 0.5, 0.5, 3.0], abs=1e-5)
    assert recorder.computed == [True] * 4


def test_it_is_the_mean_over_tokens_of_their_ratios() -> None:
    recorder = RatioRecorder()
    zero = torch.zeros(1, 2, 3)
    for i, sizes in enumerate([(1.0, 10.0), (2.0, 10.0)]):
        after = zero + torch.tensor(sizes).view(1, 2, 1)

        def blocks(after: torch.Tensor = after):
            yield after

        recorder.run(Step(i, 2, 0.5), zero, lambda: zero, blocks)
    assert recorder.ratios[1] == pytest.approx((2 + 1) / 2)  # not 14.3 / 14.2


def test_calibrating_a_model_changes_nothing_and_serves_it(tmp_path: Path) -> None:
    runs = Runs(steps=8)
    plain = runs.finish(None)
    assert torch.equal(runs.finish(RatioRecorder), plain)
    runs.finish(RatioRecorder, seed=1)
    recorded = [cache.ratios for cache in runs.made if isinstance(cache, RatioRecorder)]
    made = Calibration.of(recorded)
    middle = (recorded[0][3] + recorded[1][3]) / 2
    assert made.at(8)[3] == pytest.approx(middle, abs=1e-5)
    made.save(tmp_path / "magcache.json")
    read = Calibration.load(tmp_path / "magcache.json")
    assert read == made
    assert read.digest() == made.digest() != PUBLISHED["framepack"].digest()
    runs.finish(lambda: MagCache(read, MagRule(threshold=9.0, jump=9.0)))
    assert not all(runs.made[-1].computed)


def test_a_calibration_says_what_a_jump_is(tmp_path: Path) -> None:
    even = Calibration({12: (0.92,) * 12}, jump=0.5)
    even.save(tmp_path / "magcache.json")
    read = Calibration.load(tmp_path / "magcache.json")
    assert read == even
    assert read.digest() != Calibration({12: (0.92,) * 12}).digest()
    for calibration, computed in ((read, 7), (Calibration({12: (0.92,) * 12}), 12)):
        cache = new_cache("magcache", 0.1, calibration)
        for i in range(12):
            tokens = torch.ones(1, 2, 4)
            cache.run(Step(i, 12, 0.5), tokens, lambda: tokens, lambda: (t for t in [tokens * 2]))  # noqa: B023
        assert sum(cache.computed) == computed


def test_runs_of_several_lengths_are_kept_apart() -> None:
    made = Calibration.of([[1.0, 0.5], [1.0, 0.7], [1.0, 0.9, 0.8]])
    assert made.runs == {2: (1.0, 0.6), 3: (1.0, 0.9, 0.8)}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"ratios": {}}', '{"ratios": {"2": [1.0]}}', '{"ratios": {"x": [1.0]}}',
     '{"ratios": {"1": ["a"]}}', '{"ratios": {"1": [0]}}', '{"ratios": {"2": [1, NaN]}}',
     '{"ratios": {"1": [1]}, "jump": 0}', '{"ratios": {"1": [1]}, "jump": "x"}',
     '{"ratios": {"1": [1]}, "jump": NaN}', '{"ratios": {"0": []}}', '{"ratios": 3}', "\xff"],
)  # fmt: skip
def test_files_that_are_something_else_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "magcache.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match="not a calibration"):
        Calibration.load(path)


def test_a_missing_or_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a calibration"):
        Calibration.load(tmp_path / "none.json")
    large = tmp_path / "large.json"
    large.write_text(json.dumps({"ratios": {"1": [1.0]}, "more": "x" * 1_000_000}))
    with pytest.raises(CheckpointError, match="too large"):
        Calibration.load(large)


def test_blocks_that_add_nothing_cannot_be_calibrated() -> None:
    recorder = RatioRecorder()
    zero = torch.zeros(1, 2, 3)

    def blocks():
        yield zero

    for i in range(2):
        recorder.run(Step(i, 2, 0.5), zero, lambda: zero, blocks)
    with pytest.raises(InputError, match="not above 0"):
        Calibration.of([recorder.ratios])
