from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.generation.sessions import contents

pytestmark = pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")
STEPS = 2


def killed_everywhere(root: Path, asked: dict[str, Any], step: int) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.generation.killing", str(root), json.dumps(asked)]
    run = subprocess.run(
        [*command, str(step)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    first, *lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert first["places"] > 60
    assert len(lines) == len(range(1, first["places"] + 1, step))
    return lines


def check(root: Path, lines: list[dict[str, Any]], sections: int, passes: int = 1) -> None:
    expected = contents(root / "whole")
    assert len([name for name in expected if "sections" in name]) == sections
    begun = [line for line in lines if line["begun"]]
    assert len(begun) > len(lines) // 2
    for line in lines:
        assert line["killed"], line
    for line in begun:
        assert line["resumed"], line
        # A finished section is never run again, an unfinished one exactly once.
        assert line["calls"] == (sections - line["sections"]) * STEPS * passes, line
        assert contents(root / str(line["at"])) == expected, line
        assert not list((root / str(line["at"])).rglob(".recurvid-*")), line
    # The kills did fall into every phase.
    assert {line["sections"] for line in begun} == set(range(sections + 1))


def test_killed_in_every_phase_it_continues_to_the_same_bits(tmp_path: Path) -> None:
    lines = killed_everywhere(tmp_path, {"seconds": 5.0, "steps": STEPS}, step=7)
    check(tmp_path, lines, sections=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "sections"),
    [
        ({"seconds": 5.0}, 2),
        ({"seconds": 10.0}, 4),
        ({"seconds": 10.0, "noise": "sequential", "solver": "unipc"}, 4),
        ({"seconds": 7.0, "order": "forward", "schedule": "f1k1_f16k4f2k2f1k1_g9"}, 3),
        ({"seconds": 7.0, "order": "endpoint", "schedule": "td_f16k4f4k2f1k1_g9_x_f1k1"}, 3),
        ({"seconds": 7.0, "crossfade": True}, 3),
        ({"seconds": 7.0, "end": True}, 3),
    ],
    ids=str,
)
def test_killed_at_every_place(tmp_path: Path, asked: dict[str, Any], sections: int) -> None:
    lines = killed_everywhere(tmp_path, {"steps": STEPS, **asked}, step=1)
    check(tmp_path, lines, sections)
