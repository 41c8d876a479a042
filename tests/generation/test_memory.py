"""Host memory does not grow with the length of a video."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs the resource module")
# Pixels of one section, kept as bytes, would be 36 * 192 * 192 * 3 = 4 MB.
ASKED = {"steps": 1, "size": "192x192"}


def peaks(root: Path, asked: dict[str, Any]) -> list[int]:
    """Peak resident bytes after each section."""
    command = [sys.executable, "-m", "tests.generation.measuring", str(root), json.dumps(asked)]
    run = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return [json.loads(line)["peak"] for line in run.stdout.splitlines()]


def test_twenty_sections_need_no_more_than_five(tmp_path: Path) -> None:
    found = peaks(tmp_path, {**ASKED, "seconds": 60.0})
    assert len(found) == 20
    assert found[19] - found[4] < 25e6


@pytest.mark.slow
@pytest.mark.parametrize(
    "order", [{}, {"order": "forward", "schedule": "f1k1_f16k4f2k2f1k1_g9"}], ids=str
)
def test_a_hundred_sections_need_no_more_than_ten(tmp_path: Path, order: dict[str, str]) -> None:
    found = peaks(tmp_path, {**ASKED, **order, "seconds": 300.0})
    assert len(found) == 100
    assert found[99] - found[9] < 30e6
