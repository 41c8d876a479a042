"""The doctor's plan counts what attention keeps, as a run's own plan does."""

from __future__ import annotations

from typing import Any

import pytest
from tests.cli.command import run

Capsys = pytest.CaptureFixture[str]
ASKED = ("doctor", "--vram", "6", "--json")


def work(capsys: Capsys, *options: str) -> tuple[float, dict[str, Any]]:
    """What a step works in, and the whole record."""
    (found,) = run(capsys, *ASKED, *options).records
    (denoise,) = [phase for phase in found["phases"] if phase["name"] == "denoise"]
    return denoise["work"], found


@pytest.mark.parametrize("options", [("--sparse", "10x13+4"), ("--attention", "triton-int8")])
def test_windows_and_rounding_take_room(capsys: Capsys, options: tuple[str, str]) -> None:
    plain, _ = work(capsys)
    more, found = work(capsys, *options)
    assert more > plain
    assert found[options[0].removeprefix("--")] == options[1]


def test_what_is_no_window_is_told(capsys: Capsys) -> None:
    assert run(capsys, "doctor", "--sparse", "wide").code == 2
