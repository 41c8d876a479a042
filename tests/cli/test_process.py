"""The command as a process: how soon it is there, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.command import process, run

from recurvid import durable
from recurvid.video.reader import probe

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


def test_help_comes_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from recurvid.cli import main\n"
        "try: main.run(['--help'])\n"
        "except SystemExit: pass\n"
        "slow = [m for m in ('torch', 'diffusers', 'transformers', 'av') if m in sys.modules]\n"
        "print('\\n', slow, time.process_time())"
    )
    # Time of the processor, since CI's may be busy with something else.
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
        ).stdout.splitlines()[-1]
        for _ in range(3)
    ]
    assert all(run.strip().startswith("[]") for run in runs)
    assert min(float(run.split()[-1]) for run in runs) < 1


def test_the_session_stands_before_torch_is_imported(work: Path, quick: list[str]) -> None:
    """``import torch`` ends the process; what is on disk by then can be resumed."""
    trap = work / "trap"
    trap.mkdir()
    (trap / "torch.py").write_text("import os; os._exit(77)")
    arguments = ["generate", "photo.png", "--prompt", "a walk", *quick, "--session", "s"]
    killed = process(*arguments, cwd=work, PYTHONPATH=str(trap))
    killed.communicate(timeout=60)
    assert killed.returncode == 77
    assert json.loads((work / "s/request.json").read_text())["prompt"] == "a walk"
    assert (work / "s/picture.png").read_bytes() == (work / "photo.png").read_bytes()
    (work / "photo.png").unlink()
    resumed = process("resume", "s", cwd=work)
    out, err = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, err
    assert out.strip() == str(work / "photo.mp4")
    assert probe(work / "photo.mp4").frames == 48


def started(
    work: Path, quick: list[str], until: Callable[[dict[str, object]], bool], *extra: str
) -> subprocess.Popen[str]:
    """A generate process that has just told of an event."""
    arguments = [*quick, "--session", "s", "--json", "--steps", "400", *extra]
    running = process("generate", "photo.png", *arguments, cwd=work)
    assert running.stdout is not None
    line = ""
    for line in running.stdout:
        if until(json.loads(line)):
            return running
    raise AssertionError(line + running.communicate()[1])


def second_section(record: dict[str, object]) -> bool:
    return record["event"] == "progress" and record["section"] == 1


@POSIX
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_it_says_how_to_go_on(
    work: Path, quick: list[str], number: signal.Signals, code: int
) -> None:
    running = started(work, quick, second_section)
    running.send_signal(number)
    out, err = running.communicate(timeout=60)
    assert running.returncode == code
    assert "Traceback" not in err
    last = json.loads(out.splitlines()[-1])
    assert last["exit_code"] == code
    assert f"recurvid resume {work / 's'}" in last["message"]
    assert not list((work / "s").rglob(".recurvid-*"))
    calls = resumed_steps(work)
    assert {section for section, _ in calls} == {1}  # the first section is not made again


def resumed_steps(work: Path) -> list[tuple[int, int]]:
    """Sections and steps that ``resume`` ran."""
    resumed = process("resume", "s", "--json", cwd=work)
    out, err = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, err
    records = [json.loads(line) for line in out.splitlines()]
    assert records[-1]["event"] == "finished"
    return [(r["section"], r["step"]) for r in records if r.get("phase") == "denoise"]


@POSIX
def test_a_second_process_is_refused(work: Path, quick: list[str]) -> None:
    running = started(work, quick, second_section)
    running.send_signal(signal.SIGSTOP)  # it would be done before the other has started
    try:
        second = process("resume", "s", cwd=work)
        _, err = second.communicate(timeout=60)
        assert second.returncode == 6
        assert "another process" in err
    finally:
        running.kill()
        running.communicate()


@POSIX
def test_killed_while_making_the_second_section(work: Path, quick: list[str]) -> None:
    running = started(work, quick, second_section)
    running.kill()
    running.communicate()
    assert running.returncode == -signal.SIGKILL
    steps = resumed_steps(work)
    assert len(steps) == 400
    assert {section for section, _ in steps} == {1}
    resumed = (work / "photo.mp4").read_bytes()
    whole = process(
        "generate", "photo.png", *quick, "--steps", "400", "--out", "whole.mp4", cwd=work
    )
    whole.communicate(timeout=300)
    assert (work / "whole.mp4").read_bytes() == resumed


@POSIX
@pytest.mark.slow
def test_killed_at_random_times(work: Path, quick: list[str]) -> None:
    options = [*quick, "--steps", "60", "--seconds", "10"]
    begun = time.monotonic()
    whole = process("generate", "photo.png", *options, "--out", "whole.mp4", cwd=work)
    assert whole.wait(300) == 0
    lasted = time.monotonic() - begun
    expected = (work / "whole.mp4").read_bytes()
    for number in range(20):
        session, out = f"s{number}", f"{number}.mp4"
        arguments = [*options, "--session", session, "--out", out]
        running = process("generate", "photo.png", *arguments, cwd=work)
        time.sleep(lasted * int.from_bytes(os.urandom(2), "big") / 65536)
        running.kill()
        running.communicate()
        if not (work / session / "request.json").exists():
            continue
        for _ in range(2):  # resumed, killed once more, resumed
            again = process("resume", session, cwd=work)
            time.sleep(lasted * int.from_bytes(os.urandom(2), "big") / 65536)
            again.kill()
            again.communicate()
        last = process("resume", session, cwd=work)
        assert last.wait(300) == 0
        assert (work / out).read_bytes() == expected


@POSIX
def test_a_reader_that_goes_away(work: Path) -> None:
    command = f"{sys.executable} -m recurvid info --seconds 60 --json | true"
    run = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=work)
    assert "Traceback" not in run.stderr
    assert "Broken" not in run.stderr


@POSIX
@pytest.mark.parametrize(
    "begin",
    ["import runpy; runpy.run_module('recurvid', run_name='__main__')", "COMMAND"],
)
def test_stopped_while_it_is_being_imported(tmp_path: Path, begin: str) -> None:
    (tmp_path / "typer.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    if begin == "COMMAND":  # what the installed command does
        root = Path(__file__).parents[2]
        scripts = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]
        module, name = scripts["recurvid"].split(":")
        begin = f"from {module} import {name}; {name}()"
    ran = subprocess.run(
        [sys.executable, "-c", begin],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert (ran.returncode, ran.stderr) == (130, "recurvid: stopped\n")


@POSIX
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_before_the_session_stands(
    capsys: pytest.CaptureFixture[str],
    work: Path,
    quick: list[str],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    code: int,
) -> None:
    write_json = durable.write_json

    def stopped(path: Path, value: object) -> None:
        if path.name == "request.json":
            os.kill(os.getpid(), number)
        write_json(path, value)

    monkeypatch.setattr(durable, "write_json", stopped)
    before = sorted(work.rglob("*"))
    ran = run(capsys, "generate", "photo.png", *quick, "--session", "s")
    assert ran.code == code
    assert "before the session began" in ran.err
    assert "recurvid resume" not in ran.err
    assert sorted(work.rglob("*")) == before
