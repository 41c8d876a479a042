"""What may be replaced: what was asked to be, and nothing that came to stand there since."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.cli.command import run

from recurvid.video.reader import probe

Capsys = pytest.CaptureFixture[str]


def place(path: Path, text: str, age: int) -> None:
    path.write_text(text)
    os.utime(path, (1_700_000_000 + age, 1_700_000_000 + age))


def unfinish(session: Path) -> None:
    """As if the run had been killed before it wrote its result."""
    for name in ("finished.json", "writing.json"):
        (session / name).unlink()


@pytest.fixture
def allowed(capsys: Capsys, work: Path, quick: list[str]) -> Path:
    """A session that was allowed to replace a file, and was stopped before it did so."""
    place(work / "a.mp4", "first", 0)
    session = work / "s"
    given = [*quick, "--session", session, "--out", "a.mp4"]
    assert run(capsys, "generate", "photo.png", *given).code == 3
    assert run(capsys, "generate", "photo.png", *given, "--overwrite").code == 0
    unfinish(session)
    return session


def test_a_resume_replaces_what_it_was_allowed_to(
    capsys: Capsys, work: Path, allowed: Path
) -> None:
    place(work / "a.mp4", "first", 0)
    assert run(capsys, "resume", allowed).code == 0
    assert probe(work / "a.mp4").frames == 48


def test_a_resume_replaces_nothing_that_came_since(
    capsys: Capsys, work: Path, allowed: Path
) -> None:
    place(work / "a.mp4", "other", 60)
    ran = run(capsys, "resume", allowed)
    assert (ran.code, "exists already" in ran.err) == (3, True)
    assert (work / "a.mp4").read_text() == "other"
    assert run(capsys, "resume", allowed).code == 3  # nor the second time
    assert run(capsys, "resume", allowed, "--overwrite").code == 0
    assert probe(work / "a.mp4").frames == 48


def test_permission_does_not_go_along_to_another_place(
    capsys: Capsys, work: Path, allowed: Path
) -> None:
    place(work / "b.mp4", "precious", 0)
    assert run(capsys, "resume", allowed, "--out", "b.mp4").code == 3
    assert (work / "b.mp4").read_text() == "precious"
    assert run(capsys, "resume", allowed, "--out", "b.mp4", "--overwrite").code == 0
    unfinish(allowed)
    place(work / "b.mp4", "another's", 60)
    assert run(capsys, "resume", allowed).code == 3
    assert (work / "b.mp4").read_text() == "another's"


def test_a_place_that_was_free_is_not_free_for_ever(
    capsys: Capsys, work: Path, quick: list[str]
) -> None:
    session = work / "s"
    given = [*quick, "--session", session, "--out", "a.mp4", "--overwrite"]
    assert run(capsys, "generate", "photo.png", *given).code == 0
    unfinish(session)
    place(work / "a.mp4", "other", 0)
    assert run(capsys, "resume", session).code == 3
    assert (work / "a.mp4").read_text() == "other"


def test_png_frames_too(capsys: Capsys, work: Path, quick: list[str]) -> None:
    session = work / "s"
    given = [*quick, "--session", session, "--out", "f/", "--overwrite"]
    assert run(capsys, "generate", "photo.png", *given).code == 0
    unfinish(session)
    assert run(capsys, "resume", session).code == 3  # its own, but nobody can tell
    assert run(capsys, "resume", session, "--overwrite").code == 0
    assert len(list((work / "f").glob("*.png"))) == 48


def test_killed_while_it_was_writing(capsys: Capsys, work: Path, quick: list[str]) -> None:
    session = work / "s"
    given = [*quick, "--session", session, "--out", "a.mp4"]
    assert run(capsys, "generate", "photo.png", *given).code == 0
    made = (work / "a.mp4").read_bytes()
    (session / "finished.json").unlink()
    assert run(capsys, "resume", session).code == 0  # what stands there is its own
    assert (work / "a.mp4").read_bytes() == made
    (session / "finished.json").unlink()
    place(work / "a.mp4", "another's", 0)
    assert run(capsys, "resume", session).code == 3
    assert (work / "a.mp4").read_text() == "another's"


def test_killed_while_it_was_writing_frames(capsys: Capsys, work: Path, quick: list[str]) -> None:
    session, frames = work / "s", work / "f"
    given = [*quick, "--session", session, "--out", "f/"]
    assert run(capsys, "generate", "photo.png", *given).code == 0
    (session / "finished.json").unlink()
    for path in sorted(frames.glob("*.png"))[20:]:
        path.unlink()
    (frames / ".recurvid-0123456789ab.partial.png").write_bytes(b"half")
    (frames / ".DS_Store").touch()
    ran = run(capsys, "resume", session)
    assert ran.code == 0, ran.err
    assert len(list(frames.glob("0*.png"))) == 48
    assert not list(frames.glob(".recurvid-*"))
