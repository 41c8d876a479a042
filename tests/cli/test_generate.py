from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from tests.cli.command import run
from tests.generation.sessions import write_picture

from recurvid.cli.progress import in_words
from recurvid.generation.journal import Journal
from recurvid.generation.request import request_fields
from recurvid.video.metadata import read_metadata
from recurvid.video.reader import probe, read_frames

Capsys = pytest.CaptureFixture[str]


def test_a_picture_becomes_a_video(capsys: Capsys, work: Path, quick: list[str]) -> None:
    ran = run(capsys, "generate", "photo.png", "--prompt", "a walk", *quick, "--out", "a.mp4")
    assert ran.code == 0
    assert ran.out.strip() == str(work / "a.mp4")
    assert "2 sections, 48 frames at 12 fps = 4.00 s, 64x48" in ran.err
    assert "session: " in ran.err
    assert probe(work / "a.mp4").frames == 48


def test_the_result_is_named_after_the_picture(
    capsys: Capsys, work: Path, quick: list[str]
) -> None:
    for name in ("photo.mp4", "photo-2.mp4", "photo-3.mp4"):
        assert run(capsys, "generate", "photo.png", *quick).out.strip() == str(work / name)


def test_events_for_machines(capsys: Capsys, work: Path, quick: list[str]) -> None:
    session = work / "session"
    ran = run(capsys, "generate", "photo.png", *quick, "--json", "--session", session)
    assert ran.err == ""
    assert ran.records[0] == {"event": "session", "folder": str(session)}
    assert ran.records[1] == {
        "event": "planned",
        "sections": 2,
        "frames": 48,
        "fps": 12.0,
        "height": 48,
        "width": 64,
    }
    assert ran.records[-1] == {
        "event": "finished",
        "video": str(work / "photo.mp4"),
        "frames": 48,
        "fps": 12.0,
    }
    assert {record["event"] for record in ran.records} == {
        "session",
        "planned",
        "progress",
        "section_done",
        "finished",
    }


def test_quiet_says_nothing_but_the_result(capsys: Capsys, work: Path, quick: list[str]) -> None:
    ran = run(capsys, "generate", "photo.png", *quick, "--quiet")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.strip() == str(work / "photo.mp4")


def test_every_field_of_a_request_is_an_option(
    capsys: Capsys, work: Path, small_model: str
) -> None:
    given = {
        "prompt": "a",
        "negative_prompt": "b",
        "seconds": "2",
        "seed": "7",
        "model": small_model,
        "size": "64x48",
        "fps": "10",
        "whole_sections": None,
        "crf": "20",
        "crossfade": None,
        "steps": "1",
        "solver": "euler",
        "shift": "3",
        "guidance_scale": None,
        "cfg_scale": "2",
        "cfg_rescale": "0.5",
        "noise": "sequential",
        "step_cache": "first-block",
        "cache_threshold": "0.25",
        "order": "inverted",
        "schedule": "f1k1_x_g9_f1k1f2k2f16k4_td",
        "exact_gaps": None,
    }
    assert set(given) == {spec.name for spec in request_fields()}
    options: list[str] = []
    for name, value in given.items():
        if name != "guidance_scale":  # the small model has none
            options += [f"--{name.replace('_', '-')}", *([] if value is None else [value])]
    session = work / "session"
    ran = run(capsys, "generate", "photo.png", *options, "--session", session)
    assert ran.code == 0, ran.err
    request = Journal.open(session).request.to_json()
    for name, value in given.items():
        expected = {"model": "bundled", "guidance_scale": "None"}.get(name, value or "True")
        got = request[name]
        assert str(int(got) if isinstance(got, float) and got.is_integer() else got) == expected


def test_like_repeats_a_video(capsys: Capsys, work: Path, quick: list[str]) -> None:
    run(capsys, "generate", "photo.png", *quick, "--seed", "5", "--prompt", "x", "--out", "a.mp4")
    model = quick[:2]
    ran = run(capsys, "generate", "photo.png", "--like", "a.mp4", *model, "--out", "b.mp4")
    assert ran.code == 0, ran.err
    a, b = (np.stack(list(read_frames(work / name))) for name in ("a.mp4", "b.mp4"))
    assert np.array_equal(a, b)
    assert read_metadata(work / "a.mp4") == read_metadata(work / "b.mp4")


def test_options_win_over_like(capsys: Capsys, work: Path, quick: list[str]) -> None:
    run(capsys, "generate", "photo.png", *quick, "--seed", "5", "--prompt", "x", "--out", "a.mp4")
    other = ["--seed", "6", "--no-whole-sections", "--seconds", "3", *quick[:2]]
    run(capsys, "generate", "photo.png", "--like", "a.mp4", *other, "--out", "b.mp4")
    metadata = read_metadata(work / "b.mp4")
    assert metadata is not None
    request = metadata["request"]
    assert (request["seed"], request["prompt"], request["seconds"]) == (6, "x", 3.0)
    assert probe(work / "b.mp4").frames == 36


def test_like_another_video_is_refused(capsys: Capsys, work: Path, quick: list[str]) -> None:
    run(capsys, "generate", "photo.png", *quick, "--no-metadata", "--out", "a.mp4")
    ran = run(capsys, "generate", "photo.png", "--like", "a.mp4", *quick)
    assert ran.code == 2
    assert "carries no request" in ran.err


def test_an_end_picture(capsys: Capsys, work: Path, quick: list[str]) -> None:
    write_picture(work / "end.png", 1)
    ran = run(capsys, "generate", "photo.png", "--end-image", "end.png", *quick, "--out", "a.mp4")
    assert ran.code == 0, ran.err
    plan = next(line for line in ran.err.splitlines() if "2 sections, 73 frames" in line)
    assert plan.endswith("64x48 (not trimmed: it ends at the end picture)")
    assert probe(work / "a.mp4").frames == 73


def test_png_frames(capsys: Capsys, work: Path, quick: list[str]) -> None:
    ran = run(capsys, "generate", "photo.png", *quick, "--out", "frames/")
    assert ran.code == 0, ran.err
    assert len(list((work / "frames").glob("*.png"))) == 48


def test_a_session_is_resumed_from_another_folder(
    capsys: Capsys, work: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, path = quick[1].split("=")
    relative = f"{name}={os.path.relpath(path, work)}"
    session = work / "session"
    arguments = ["photo.png", "--model", relative, *quick[2:], "--session", session]
    assert run(capsys, "generate", *arguments).code == 0
    expected = (work / "photo.mp4").read_bytes()
    (work / "photo.mp4").unlink()
    (session / "sections/0001.safetensors").unlink()
    for segment in (session / "video").iterdir():
        segment.unlink()
    (work / "elsewhere").mkdir()
    monkeypatch.chdir(work / "elsewhere")
    ran = run(capsys, "resume", "../session")
    assert ran.code == 0, ran.err
    assert (work / "photo.mp4").read_bytes() == expected


def test_resume_of_a_finished_session(capsys: Capsys, work: Path, quick: list[str]) -> None:
    run(capsys, "generate", "photo.png", *quick, "--session", "s")
    ran = run(capsys, "resume", "s")
    assert (ran.code, ran.out.strip()) == (0, str(work / "photo.mp4"))
    ran = run(capsys, "resume", "s", "--json")
    assert ran.records == [
        {"event": "finished", "video": str(work / "photo.mp4"), "frames": 48, "fps": 12.0}
    ]


def test_a_finished_session_can_be_written_elsewhere(
    capsys: Capsys, work: Path, quick: list[str]
) -> None:
    run(capsys, "generate", "photo.png", *quick, "--session", "s")
    assert run(capsys, "resume", "s", "--out", "copy.gif").code == 0
    assert len(list(read_frames(work / "copy.gif"))) == 48
    assert (work / "photo.mp4").exists()


@pytest.mark.parametrize("bad", ["no/folder/a.mp4", "a.avi", "precious.mp4", "o\udce9.mp4"])
def test_a_place_that_was_refused_is_not_kept(
    capsys: Capsys, work: Path, quick: list[str], bad: str
) -> None:
    run(capsys, "generate", "photo.png", *quick, "--session", "s")
    (work / "precious.mp4").write_text("precious")
    assert run(capsys, "resume", "s", "--out", bad).code == 3
    ran = run(capsys, "resume", "s")
    assert (ran.code, ran.out.strip()) == (0, str(work / "photo.mp4"))
    assert (work / "precious.mp4").read_text() == "precious"
    assert run(capsys, "resume", "s", "--out", "photo.mp4").code == 0  # where it is already


def test_a_device_that_was_refused_is_not_kept(
    capsys: Capsys, work: Path, quick: list[str]
) -> None:
    run(capsys, "generate", "photo.png", *quick, "--session", "s")
    (work / "photo.mp4").unlink()
    assert run(capsys, "resume", "s", "--device", "abacus").code == 2
    assert run(capsys, "resume", "s").code == 0


def test_a_truncated_segment(capsys: Capsys, work: Path, quick: list[str]) -> None:
    run(capsys, "generate", "photo.png", *quick, "--session", "s")
    expected = (work / "photo.mp4").read_bytes()
    (work / "photo.mp4").unlink()
    segment = max((work / "s/video").iterdir())
    whole = segment.read_bytes()
    for length in (0, 100, len(whole) // 2, len(whole) - 100):
        segment.write_bytes(whole[:length])
        ran = run(capsys, "resume", "s")
        assert ran.code == 6
        assert f"segment {segment}" in ran.err
        assert "delete it and resume: it is made again" in ran.err
    segment.unlink()
    assert run(capsys, "resume", "s").code == 0
    assert (work / "photo.mp4").read_bytes() == expected


@pytest.mark.skipif(os.name == "nt", reason="file names are text there")
def test_a_picture_whose_name_is_no_text(capsys: Capsys, work: Path, quick: list[str]) -> None:
    (work / "photo.png").rename(work / "caf\udce9 [x]%d.png")
    ran = run(capsys, "generate", "caf\udce9 [x]%d.png", *quick)
    assert ran.code == 0, ran.err
    assert ran.out.strip() == str(work / "caf_ [x]%d.mp4")
    assert probe(work / "caf_ [x]%d.mp4").frames == 48


def test_in_words() -> None:
    assert [in_words(s) for s in (0.0, 59.4, 61.0, 3599.0, 3600.0, 7500.0)] == [
        "0 s",
        "59 s",
        "1 min 1 s",
        "59 min 59 s",
        "1 h 0 min",
        "2 h 5 min",
    ]
