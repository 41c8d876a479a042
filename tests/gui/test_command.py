"""``recurvid gui`` as a command: it refuses before anything listens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the page needs the extra gui")


def gui(home: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "recurvid", "gui", "--home", str(home), *options],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--server", "0.0.0.0"), "RECURVID_API_KEY"),
        (("--share",), "RECURVID_API_KEY"),
        (("--api-key-file", "/no/such/file"), "key file"),
        (("--share", "--allow-open"), "--share"),
    ],
)
def test_open_doors_are_refused_in_one_line(tmp_path: Path, options: tuple[str, ...], said: str):
    done = gui(tmp_path, *options)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.strip().splitlines()
    assert said in line


def test_a_home_that_cannot_be_written_is_said(tmp_path: Path):
    file = tmp_path / "file"
    file.touch()
    done = gui(file)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.strip().endswith(
        "cannot be written (File exists); choose another with --home"
    )


def test_a_key_that_is_too_short_is_none(tmp_path: Path):
    done = gui(tmp_path, "--server", "0.0.0.0", RECURVID_API_KEY="short")
    assert done.returncode == 2
    assert "short" not in done.stderr.replace("too short", "")
