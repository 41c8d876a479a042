from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recurvid.errors import SessionError
from recurvid.generation.finished import FinishedVideo, finished_video
from recurvid.generation.journal import Journal, Local, refuse_used_folder
from recurvid.generation.lock import folder_lock
from recurvid.generation.request import GenerationRequest

REQUEST = GenerationRequest(prompt="a walk", seconds=2.0)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "Photo of Me.JPG"
    path.write_bytes(b"not looked at here")
    return path


def create(folder: Path, picture: Path, end: Path | None = None) -> Journal:
    return Journal.create(folder, REQUEST, Local(output="/somewhere/out.mp4"), picture, end)


def test_what_was_asked_can_be_read_back(tmp_path: Path, picture: Path) -> None:
    create(tmp_path / "s", picture)
    journal = Journal.open(tmp_path / "s")
    assert journal.request == REQUEST
    assert journal.local == Local(output="/somewhere/out.mp4")
    assert journal.picture == tmp_path / "s/picture.jpg"
    assert journal.picture.read_bytes() == picture.read_bytes()
    assert journal.end_picture is None


def test_no_path_stands_outside_the_local_file(tmp_path: Path, picture: Path) -> None:
    create(tmp_path / "s", picture)
    text = (tmp_path / "s/request.json").read_text()
    assert "somewhere" not in text
    assert "Photo" not in text
    assert str(tmp_path) not in text


def test_an_end_picture_is_kept(tmp_path: Path, picture: Path) -> None:
    end = tmp_path / "end"
    end.write_bytes(b"end")
    create(tmp_path / "s", picture, end)
    found = Journal.open(tmp_path / "s").end_picture
    assert found is not None
    assert found.read_bytes() == b"end"


def test_torch_is_not_needed_for_any_of_it(tmp_path: Path, picture: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from recurvid.generation.journal import Journal, Local
from recurvid.generation.request import GenerationRequest
from recurvid.generation.finished import finished_video
from recurvid.generation.lock import folder_lock
import recurvid.cli.main
journal = Journal.create(Path({str(tmp_path / "s")!r}), GenerationRequest(), Local(output="o.mp4"),
                         Path({str(picture)!r}))
with folder_lock(journal.folder):
    assert finished_video(Journal.open(journal.folder)) is None
print([m for m in ("torch", "diffusers", "transformers", "av") if m in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_session_is_never_started_over(tmp_path: Path, picture: Path) -> None:
    create(tmp_path / "s", picture)
    with pytest.raises(SessionError, match="recurvid resume"):
        create(tmp_path / "s", picture)


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path, picture: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s/thesis.txt").write_text("x")
    with pytest.raises(SessionError, match=r"thesis\.txt"):
        create(tmp_path / "s", picture)
    assert [p.name for p in (tmp_path / "s").iterdir()] == ["thesis.txt"]


def test_a_file_is_no_folder(tmp_path: Path, picture: Path) -> None:
    with pytest.raises(SessionError, match="is a file"):
        create(picture, picture)


def test_a_start_that_was_killed_can_be_repeated(tmp_path: Path, picture: Path) -> None:
    journal = create(tmp_path / "s", picture)
    (journal.folder / "request.json").unlink()
    (journal.folder / ".recurvid-0123.partial.json").write_text("{")
    refuse_used_folder(journal.folder)
    create(tmp_path / "s", picture)
    Journal.open(tmp_path / "s").sweep()
    assert not list((tmp_path / "s").glob(".recurvid*"))


@pytest.mark.parametrize("lost", ["request.json", "local.json", "picture.jpg"])
def test_what_is_missing_is_named(tmp_path: Path, picture: Path, lost: str) -> None:
    create(tmp_path / "s", picture)
    (tmp_path / "s" / lost).unlink()
    with pytest.raises(SessionError, match=lost.split(".")[0]):
        Journal.open(tmp_path / "s")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("request.json", "{"),
        ("request.json", "[]"),
        ("request.json", '{"nope": 1}'),
        ("request.json", '{"seed": -1}'),
        ("request.json", "[" * 100_000),
        ("local.json", '{"output": "a.mp4", "nope": 1}'),
        ("local.json", "{}"),
        ("local.json", '{"output": 5}'),
        ("local.json", '{"output": null}'),
        ("local.json", '{"output": "a\\u0000.mp4"}'),
        ("local.json", '{"output": "a.mp4", "overwrite": 1}'),
        ("local.json", '{"output": "a.mp4", "metadata": null}'),
        ("local.json", '{"output": "a.mp4", "device": ["cpu"]}'),
        ("local.json", '{"output": "a.mp4", "model": {}}'),
        ("local.json", '{"output": "a.mp4", "vram": "6"}'),
        ("local.json", '{"output": "a.mp4", "vram": NaN}'),
        ("local.json", '{"output": "a.mp4", "vram": -1}'),
        ("local.json", '{"output": "a.mp4", "vram": true}'),
        ("local.json", "\x00"),
    ],
)
def test_what_is_damaged_is_named(tmp_path: Path, picture: Path, name: str, text: str) -> None:
    create(tmp_path / "s", picture)
    (tmp_path / "s" / name).write_text(text)
    with pytest.raises(SessionError, match=name):
        Journal.open(tmp_path / "s")


def test_a_field_that_is_not_known_cannot_steer_the_terminal(tmp_path: Path, picture: Path) -> None:
    create(tmp_path / "s", picture)
    name = "\x1b[2J\n" + "x" * 5000
    (tmp_path / "s/local.json").write_text(json.dumps({"output": "a.mp4", name: 1}))
    with pytest.raises(SessionError) as refused:
        Journal.open(tmp_path / "s")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 200 + len(str(tmp_path))


def test_a_whole_number_is_a_number(tmp_path: Path, picture: Path) -> None:
    create(tmp_path / "s", picture)
    (tmp_path / "s/local.json").write_text('{"output": "a.mp4", "vram": 6, "model": null}')
    assert Journal.open(tmp_path / "s").local == Local(output="a.mp4", vram=6.0)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path, picture: Path) -> None:
    journal = create(tmp_path / "s", picture)
    (tmp_path / "s/local.json").unlink()
    os.mkfifo(tmp_path / "s/local.json")
    with pytest.raises(SessionError, match="not a regular file"):
        _ = journal.local


@pytest.mark.parametrize("frames", [None, "48", 0, -1, 1.5, True, [48]])
def test_a_mark_that_says_nonsense(tmp_path: Path, picture: Path, frames: object) -> None:
    out = tmp_path / "out.mp4"
    journal = Journal.create(tmp_path / "s", REQUEST, Local(output=str(out)), picture)
    out.touch()
    values = {"output": str(out), "frames": 48, "fps": 12.0}
    journal.write_json("finished.json", values)
    assert finished_video(journal) == FinishedVideo(out, 48, 12.0)
    for wrong in ({"frames": frames}, {"fps": frames if frames != 1.5 else "x"}):
        journal.write_json("finished.json", values | wrong)
        with pytest.raises(SessionError, match=r"finished\.json"):
            finished_video(journal)


@pytest.mark.parametrize("name", ["plan.json", "local.json"])
def test_a_folder_in_the_way_of_a_file(tmp_path: Path, picture: Path, name: str) -> None:
    journal = create(tmp_path / "s", picture)
    (tmp_path / "s" / name).unlink(missing_ok=True)
    (tmp_path / "s" / name / "inside").mkdir(parents=True)
    with pytest.raises(SessionError, match=f"{name} cannot be written"):
        journal.write_json(name, {})


def test_no_folder_no_session(tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="there is no session folder"):
        Journal.open(tmp_path / "nowhere")
    with pytest.raises(SessionError, match="not a session folder"):
        Journal.open(tmp_path)


def test_segments_come_in_timeline_order(tmp_path: Path, picture: Path) -> None:
    journal = create(tmp_path / "s", picture)
    for section, frames in ((0, range(37, 73)), (1, range(37)), (12345, range(73, 1_000_000))):
        journal.segment_path(section, frames, ".mp4").write_bytes(b"")
    (journal.video_folder / ".recurvid-0001.partial.mp4").write_bytes(b"")
    found = journal.segments()
    assert [segment.frames for segment in found] == [
        range(37),
        range(37, 73),
        range(73, 1_000_000),
    ]
    assert [segment.section for segment in found] == [1, 0, 12345]


def test_a_session_that_made_nothing_can_be_taken_back(tmp_path: Path, picture: Path) -> None:
    create(tmp_path / "s", picture).discard()
    assert not (tmp_path / "s").exists()
    journal = create(tmp_path / "s", picture)
    journal.section_path(0).write_bytes(b"hours of work")
    journal.discard()
    assert journal.section_path(0).exists()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from recurvid.errors import SessionError
from recurvid.generation.lock import folder_lock
try:
    with folder_lock(Path({str(tmp_path)!r})):
        print("got it")
except SessionError as error:
    print(error)
"""

    def other() -> str:
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        return run.stdout.strip()

    with folder_lock(tmp_path):
        assert "another process" in other()
    assert other() == "got it"


def test_json_is_written_whole(tmp_path: Path, picture: Path) -> None:
    journal = create(tmp_path / "s", picture)
    journal.write_json("plan.json", {"a": 1})
    assert json.loads((tmp_path / "s/plan.json").read_text()) == {"a": 1}
    with pytest.raises(ValueError, match="Out of range"):
        journal.write_json("plan.json", {"a": float("nan")})
    assert json.loads((tmp_path / "s/plan.json").read_text()) == {"a": 1}
