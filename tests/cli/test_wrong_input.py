"""Wrong input of every kind: one line that names it, no stack trace, a documented exit code."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.cli.command import run

from recurvid import errors
from recurvid.cli import main
from recurvid.cli.exits import EXIT_CODES
from recurvid.settings import settings

Capsys = pytest.CaptureFixture[str]

LONG = "x" * 300 + ".mp4"

CASES: list[tuple[list[str], int, str]] = [
    (["nonsense"], 2, "nonsense"),
    (["generate"], 2, "IMAGE"),
    (["generate", "nofile.png"], 2, "nofile.png"),
    (["generate", "."], 2, "folder"),
    (["generate", "text.png"], 2, "text.png"),
    (["generate", "empty.png"], 2, "empty"),
    (["generate", "photo.png", "--end-image", "nofile.png"], 2, "nofile.png"),
    (["generate", "photo.png", "--bogus"], 2, "--bogus"),
    (["generate", "photo.png", "--seconds", "abc"], 2, "--seconds"),
    (["generate", "photo.png", "--seconds", "0"], 2, "seconds"),
    (["generate", "photo.png", "--seconds", "nan"], 2, "seconds"),
    (["generate", "photo.png", "--seconds", "1e9"], 2, "seconds"),
    (["generate", "photo.png", "--seed", "-1"], 2, "seed"),
    (["generate", "photo.png", "--seed", "1.5"], 2, "--seed"),
    (["generate", "photo.png", "--steps", "0"], 2, "steps"),
    (["generate", "photo.png", "--size", "63x64"], 2, "63x64"),
    (["generate", "photo.png", "--size", "huge"], 2, "size"),
    (["generate", "photo.png", "--fps", "0"], 2, "fps"),
    (["generate", "photo.png", "--crf", "99"], 2, "crf"),
    (["generate", "photo.png", "--solver", "magic"], 2, "magic"),
    (["generate", "photo.png", "--order", "sideways"], 2, "sideways"),
    (["generate", "photo.png", "--order", "forward", "--schedule", "g9_f1k1_td"], 2, "forward"),
    (["generate", "photo.png", "--schedule", "f1k1_x_g9q"], 2, "character 10"),
    (["generate", "photo.png", "--guidance-scale", "5"], 2, "guidance_scale"),
    (["generate", "photo.png", "--prompt", "x" * 20_000], 2, "prompt"),
    (["generate", "photo.png", "--like", "nofile.mp4"], 2, "nofile.mp4"),
    (["generate", "photo.png", "--like", "photo.png"], 2, "photo.png"),
    (["generate", "photo.png", "--out", "no/folder/a.mp4"], 3, "no such folder"),
    (["generate", "photo.png", "--out", "a.avi"], 3, ".avi"),
    (["generate", "photo.png", "--out", "a"], 3, "ending"),
    (["generate", "photo.png", "--out", "there.mp4"], 3, "exists already"),
    (["generate", "photo.png", "--out", "."], 3, "ending"),
    (["generate", "photo.png", "--model", "nope"], 2, "nope"),
    (["generate", "photo.png", "--model", "framepack"], 4, "recurvid models get framepack"),
    (["generate", "photo.png", "--device", "cuda:99"], 5, "cuda"),
    (["generate", "photo.png", "--device", "abacus"], 2, "abacus"),
    (["generate", "photo.png", "--device", "meta"], 5, "no meta device"),
    (["generate", "photo.png", "--dtype", "int3"], 2, "int3"),
    (["generate", "photo.png", "--weights", "int3"], 2, "int3"),
    (["generate", "photo.png", "--attention", "warp"], 2, "warp"),
    (
        ["generate", "photo.png", "--schedule", "f1k1_x_g9_f1k1f16k8_td"],
        2,
        "no patchify layer for k8",
    ),
    (["generate", "photo.png", "--schedule", "f1k1_x_g9_f1k1f16k16_ta"], 2, "layer for k16"),
    (["generate", "photo.png", "--schedule", "f1k1_x_g9_f1k1f2k2_td+D"], 2, "no codebook"),
    (["generate", "photo.png", "--schedule", "f1k1_x_g99999_f1k1"], 2, "1200012 tokens"),
    (["generate", "photo.png", "--schedule", "f1k1_x_g999_f1k1"], 2, "3996 frames"),
    (["generate", "photo.png", "--shift", "0.001"], 2, "shift: 0.001"),
    (["generate", "photo.png", "--size", "\u0666\u0664x48"], 2, "size"),
    (["generate", "photo.png", "--out", ""], 2, "--out"),
    (["generate", "photo.png", "--device", ""], 2, "--device"),
    (["generate", "photo.png", "--dtype", ""], 2, "--dtype"),
    (["generate", "photo.png", "--session", ""], 2, "--session"),
    (["generate", "photo.png", "--like", ""], 2, "--like"),
    (["generate", "photo.png", "--end-image", ""], 2, "--end-image"),
    (["generate", ""], 2, "folder"),
    (["resume", ""], 2, "DIR"),
    (["info", ""], 2, "neither a session folder"),
    (["info", "things"], 2, "neither a session folder"),
    (["info", "things/"], 2, "neither a session folder"),
    (["generate", "photo.png", "--session", "."], 6, "not empty"),
    (["generate", "photo.png", "--session", "photo.png"], 6, "is a file"),
    (["generate", "photo.png", "--session", "s\udce9"], 6, "not valid text"),
    (["generate", "photo.png", "--out", "o\udce9.mp4"], 3, "not valid text"),
    (["generate", "photo.png", "--prompt", "p\udce9"], 2, "prompt"),
    (["resume"], 2, "DIR"),
    (["resume", "nowhere"], 6, "nowhere"),
    (["resume", "."], 6, "request.json"),
    (["generate", "~no-such-user/a.png"], 2, "no such file"),
    (["generate", LONG], 2, "xxx"),
    (["generate", "photo.png", "--session", LONG], 2, "xxx"),
    (["generate", "photo.png", "--session", "~no-such-user/s/t", "--steps", "0"], 2, "steps"),
    (["generate", "photo.png", "--out", "~no-such-user/a.mp4"], 3, "no such folder"),
    (["generate", "photo.png", "--out", LONG], 3, "xxx"),
    (["generate", "photo.png", "--like", LONG], 2, "xxx"),
    (["generate", "photo.png", "--model", "~no-such-user"], 2, "no-such-user"),
    (["generate", "photo.png", "--model", LONG], 2, "xxx"),
    (["generate", "photo.png", "--model", "bundled="], 2, "no path"),
    (["generate", "photo.png", "--device", "x" * 9000], 2, "xxx"),
    (["resume", LONG], 2, "xxx"),
    (["resume", "~no-such-user/s"], 6, "no session folder"),
    (["info", LONG], 2, "xxx"),
    (["info", "things", "--size", "1"], 2, "neither a session folder"),
    (["models", "get", "nope"], 2, "nope"),
    (["selfcheck", "--device", "abacus"], 2, "abacus"),
    (["doctor", "--model", "nope"], 2, "nope"),
    (["doctor", "--vram", "x"], 2, "--vram"),
    (["models", "get", "framepack", "--to", ""], 2, "--to"),
    (["models", "get", "framepack", "--to", "photo.png", "--yes"], 4, "is a file"),
    (["info", "f1k1_q"], 2, "character"),
    (["info", "nofile.mp4"], 2, "nofile.mp4"),
    (["info", "text.png"], 2, "text.png"),
    (["info", "--seconds", "-1"], 2, "seconds"),
    (["info", "--model", "nope"], 2, "nope"),
]


@pytest.fixture
def ready(work: Path) -> Path:
    (work / "text.png").write_text("not a picture")
    (work / "empty.png").touch()
    (work / "there.mp4").write_text("precious")
    (work / "things").mkdir()
    (work / "things/notes.txt").touch()
    return work


def arguments_of(case: list[str], model: str) -> list[str]:
    small = case[:1] == ["generate"] and "--model" not in case
    size = [] if "--size" in case else ["--size", "64x48"]
    return [*case, *(["--model", model, *size] if small else [])]


@pytest.mark.parametrize(("case", "code", "word"), CASES, ids=lambda value: str(value)[:60])
def test_one_line_and_a_documented_code(
    capsys: Capsys, ready: Path, small_model: str, case: list[str], code: int, word: str
) -> None:
    before = sorted(ready.rglob("*"))
    ran = run(capsys, *arguments_of(case, small_model))
    assert ran.code == code, ran.err
    assert code in EXIT_CODES
    assert word in ran.err
    lines = ran.err.strip().splitlines()
    pointer = 2 if "f1k1_q" in case else 0  # a schedule is shown with a caret under it
    assert len(lines) == 1 + pointer
    assert lines[-1].startswith("recurvid: ")
    assert len(lines[-1]) < 1100
    assert "Traceback" not in ran.err
    assert sorted(ready.rglob("*")) == before
    assert (ready / "there.mp4").read_text() == "precious"
    sessions = settings().sessions
    assert not sessions.exists() or not list(sessions.iterdir())


@pytest.mark.parametrize(("case", "code", "word"), CASES[::4], ids=lambda value: str(value)[:60])
def test_the_same_for_machines(
    capsys: Capsys, ready: Path, small_model: str, case: list[str], code: int, word: str
) -> None:
    ran = run(capsys, *arguments_of(case, small_model), "--json")
    assert ran.code == code
    assert ran.err == ""
    (record,) = [json.loads(line) for line in ran.out.splitlines()]
    assert record["event"] == "error"
    assert record["exit_code"] == code
    assert word in record["message"]


def test_every_error_has_a_documented_exit_code(capsys: Capsys) -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    kinds = [kind for kind in classes if issubclass(kind, errors.RecurVidError)]
    assert len(kinds) >= 10
    for kind in kinds:
        assert kind.exit_code in EXIT_CODES
    ran = run(capsys, "--help")
    assert ran.code == 0
    for code, meaning in EXIT_CODES.items():
        assert f"{code}: {meaning}" in " ".join(ran.out.split())


def test_what_nobody_foresaw_is_one_line_too(
    capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh\nno")

    monkeypatch.setattr(main, "app", broken)
    ran = run(capsys, "doctor")
    assert (ran.code, ran.err) == (1, "recurvid: unexpected ZeroDivisionError: oh no\n")


def test_the_trace_is_shown_on_request(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECURVID_DEBUG", "1")
    settings.cache_clear()
    ran = run(capsys, "resume", "nowhere")
    assert ran.code == 6
    assert "Traceback" in ran.err


@pytest.mark.parametrize("error", [MemoryError(), type("OutOfMemoryError", (RuntimeError,), {})()])
def test_out_of_memory(capsys: Capsys, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(main, "app", broken)
    ran = run(capsys, "doctor")
    assert ran.code == 8
    assert "--size" in ran.err


@pytest.mark.parametrize("session", ["new", "made"])
def test_a_schedule_that_cannot_run_leaves_no_session(
    capsys: Capsys, ready: Path, small_model: str, session: str
) -> None:
    (ready / "made").mkdir()
    case = ["generate", "photo.png", "--schedule", "f1k1_x_g9_f1k1f16k8_td", "--session", session]
    ran = run(capsys, *arguments_of(case, small_model))
    assert ran.code == 2
    assert "the model 'bundled'" in ran.err
    assert "there is k1, k2, k4" in ran.err
    assert not (ready / session / "request.json").exists()


def test_a_message_cannot_steer_the_terminal(
    capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise errors.CheckpointError("tensor \x1b[2Ja\nrecurvid: all is well")

    monkeypatch.setattr(main, "app", broken)
    ran = run(capsys, "doctor")
    assert ran.err == "recurvid: tensor \N{REPLACEMENT CHARACTER}[2Ja recurvid: all is well\n"


def test_a_schedule_cannot_steer_the_terminal(capsys: Capsys, work: Path) -> None:
    ran = run(capsys, "info", "f1k1\x1b[2J\nx" + "y" * 100)
    assert ran.code == 2
    lines = ran.err.splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert max(map(len, lines)) <= 1100


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("place", ["picture", "--like", "--end-image", "--out", "--model", "info"])
def test_a_pipe_is_not_waited_for(capsys: Capsys, work: Path, small_model: str, place: str) -> None:
    os.mkfifo(work / "pipe.mp4")
    case = {"picture": ["generate", "pipe.mp4"], "info": ["info", "pipe.mp4"]}.get(
        place, ["generate", "photo.png", place, "pipe.mp4"]
    )
    ran = run(capsys, *arguments_of(case, small_model))
    assert ran.code in (2, 3, 4)
    assert len(ran.err.splitlines()) == 1
    assert "pipe.mp4" in ran.err
