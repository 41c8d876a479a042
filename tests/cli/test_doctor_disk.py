"""The doctor counts what has still to be written, and says what is there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.checkpoints.layouts import everything, remote
from tests.cli.command import run

from recurvid.checkpoints.locate import locate
from recurvid.generation.placing import converted_folder
from recurvid.models.converted import Conversion
from recurvid.settings import settings

Capsys = pytest.CaptureFixture[str]
ASKED = ("doctor", "--vram", "6", "--weights", "int8")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECURVID_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RECURVID_MODELS", str(tmp_path / "models"))
    settings.cache_clear()
    return tmp_path


def test_without_any_file_all_is_missing(capsys: Capsys, home: Path) -> None:
    (found,) = run(capsys, *ASKED, "--json").records
    assert found["disk_for_weights"] > 7e9
    assert found["disk_for_weights_there"] == 0
    assert found["disk_for_model"] > 40e9
    assert found["disk_for_model_there"] == 0
    said = run(capsys, *ASKED).out
    assert "7.5 GiB for weights in this form, written once and kept" in said
    assert "39.9 GiB of the model to fetch" in said
    assert "there already" not in said


def test_what_is_there_is_not_counted(capsys: Capsys, home: Path) -> None:
    everything(home / "models", remote(home / "repositories"))
    settings.cache_clear()
    (before,) = run(capsys, *ASKED, "--json").records
    assert before["disk_for_model"] == 0
    assert before["disk_for_model_there"] > 0
    conversion = Conversion(locate("framepack")["transformer"], "int8", torch.bfloat16)
    assert before["disk_for_weights"] > 7e9  # by the 13B model's shapes, whatever lies here
    assert before["disk_for_weights_there"] == 0

    path = conversion.write(converted_folder())
    (after,) = run(capsys, *ASKED, "--json").records
    assert after["disk_for_weights"] == 0
    assert after["disk_for_weights_there"] == path.stat().st_size
    said = run(capsys, *ASKED).out
    assert "of weights in this form are there already" in said
    assert "written once" not in said
    assert "are there already" in said.split("disk:")[-1]

    path.write_bytes(path.read_bytes()[:100])  # damaged: it will be written again
    (damaged,) = run(capsys, *ASKED, "--json").records
    assert damaged["disk_for_weights"] == before["disk_for_weights"]


def test_as_the_files_are_nothing_is_written(capsys: Capsys, home: Path) -> None:
    everything(home / "models", remote(home / "repositories"))
    settings.cache_clear()
    (found,) = run(capsys, "doctor", "--vram", "6", "--json").records
    assert (found["disk_for_weights"], found["disk_for_weights_there"]) == (0, 0)
