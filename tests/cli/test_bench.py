"""``recurvid bench`` over a tiny model: table, shareable JSON, and what it refuses."""

from __future__ import annotations

import getpass
import json
import platform
import shutil
from pathlib import Path

import pytest
from tests.cli.command import run
from tests.e2e.model_folders import write_small_model

from recurvid.checkpoints import locate
from recurvid.checkpoints.locate import BUNDLED_FOLDER
from recurvid.evaluation import bench

Capsys = pytest.CaptureFixture[str]
QUICK = ("bench", "--steps", "2", "--size", "64", "--seconds", "1", "--device", "cpu")


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_small_model(tmp_path / "bundled")
    shutil.copy(BUNDLED_FOLDER / "example.jpg", folder)
    monkeypatch.setattr(locate, "BUNDLED_FOLDER", folder)
    monkeypatch.setattr(bench, "BUNDLED_FOLDER", folder)
    return folder


def test_numbers_of_both_videos_and_the_machine(
    capsys: Capsys, bundle: Path, tmp_path: Path
) -> None:
    ran = run(capsys, *QUICK, "--json", "--out", tmp_path / "bench.json")
    assert ran.code == 0, ran.err
    (record,) = ran.records
    plain, cached = record["videos"]
    assert (plain["name"], cached["name"]) == ("no step cache", "teacache")
    for video in (plain, cached):
        assert video["frames"] > 0
        assert len(video["step_seconds"]) >= 2
        assert video["seconds"]["denoise"] >= sum(video["step_seconds"][1:])
        assert video["seconds_a_frame"] > 0
    assert record["machine"]["device"] == "cpu"
    assert record["request"]["steps"] == 2
    assert json.loads((tmp_path / "bench.json").read_text()) == record


def test_what_is_shared_names_neither_folders_nor_people(capsys: Capsys, bundle: Path) -> None:
    text = run(capsys, *QUICK, "--json").out
    for word in (str(bundle), str(Path.home()), platform.node(), getpass.getuser() + "@", "/tmp"):
        assert word not in text


def test_the_table(capsys: Capsys, bundle: Path) -> None:
    ran = run(capsys, *QUICK)
    assert ran.code == 0
    assert "s/frame" in ran.out
    assert "teacache" in ran.out
    assert not ran.out.startswith("{")


def test_a_place_that_holds_no_file_is_refused_before_the_work(
    capsys: Capsys, bundle: Path, tmp_path: Path
) -> None:
    for place in (tmp_path, tmp_path / "nowhere" / "bench.json"):
        ran = run(capsys, *QUICK, "--out", place)
        assert (ran.code, "not a place for a file" in ran.err) == (3, True)
    assert run(capsys, "bench", "--model", "nobody").code == 2
