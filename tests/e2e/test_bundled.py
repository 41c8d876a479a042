"""The bundled model as a user meets it: one command, a plain CPU, no download."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.cli.command import process, run

from recurvid.checkpoints.known import KNOWN
from recurvid.checkpoints.locate import BUNDLED_FOLDER, status
from recurvid.video.buckets import center_crop_resize
from recurvid.video.pictures import load_picture
from recurvid.video.reader import probe, read_frames

PRESENT = all(part.path for part in status(KNOWN["bundled"]))
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not PRESENT, reason="the bundled weights are not in this checkout"),
    pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals and limits"),
]
Capsys = pytest.CaptureFixture[str]
EXAMPLE = BUNDLED_FOLDER / "example.jpg"


def test_the_first_command(tmp_path: Path) -> None:
    """At most 90 seconds of two cores, and 4 GB; two sections; it begins with the picture.

    What is counted is the time of cores: who else uses them decides how long one waits.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    running = process("generate", EXAMPLE, "--prompt", "pan left", "--out", "out.mp4",
                      cwd=tmp_path, OMP_NUM_THREADS="1")  # fmt: skip
    _, err = running.communicate(timeout=900)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert running.returncode == 0, err
    assert "2 sections, 60 frames at 12 fps = 5.00 s" in err
    # The largest child so far, which is this one: nothing else here needs as much.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < 4e9
    video = probe(tmp_path / "out.mp4")
    assert video.frames == 60
    first = next(iter(read_frames(tmp_path / "out.mp4"))).astype(float)
    picture = center_crop_resize(load_picture(EXAMPLE), video.height, video.width).astype(float)
    assert 10 * np.log10(255**2 / np.mean((first - picture) ** 2)) > 22
    assert 1 < worked < 2 * 90


def test_the_self_check_passes(capsys: Capsys) -> None:
    ran = run(capsys, "selfcheck")
    assert ran.code == 0, ran.err


def test_doctor_says_that_it_runs(capsys: Capsys) -> None:
    (record,) = run(capsys, "doctor", "--json").records
    assert {model["name"]: model["why_not"] for model in record["models"]}["bundled"] is None


def test_killed_and_resumed_to_the_same_bits(tmp_path: Path) -> None:
    quick = ["--size", "96", "--steps", "4", "--seconds", "4", "--prompt", "zoom in"]
    whole = process("generate", EXAMPLE, *quick, "--out", "whole.mp4", cwd=tmp_path)
    assert whole.wait(300) == 0
    killed = process("generate", EXAMPLE, *quick, "--out", "a.mp4", "--session", "s", "--json",
                     cwd=tmp_path)  # fmt: skip
    assert killed.stdout is not None
    for line in killed.stdout:
        record = json.loads(line)
        if record["event"] == "progress" and record["section"] == 1:
            killed.send_signal(signal.SIGKILL)
            break
    killed.communicate()
    resumed = process("resume", "s", cwd=tmp_path)
    assert resumed.wait(300) == 0
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_nothing_asks_the_network(tmp_path: Path) -> None:
    code = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise AssertionError('the network was asked')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from recurvid.cli import main\n"
        f"main.run(['generate', {str(EXAMPLE)!r}, '--size', '64', '--steps', '1', '--out', 'n.mp4',"
        "'--seconds', '1'])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert ran.returncode == 0, ran.stderr
