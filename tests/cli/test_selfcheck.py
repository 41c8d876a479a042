from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.cli.command import run
from tests.e2e.model_folders import write_small_model

from recurvid.checkpoints import locate
from recurvid.checkpoints.int8 import dequantized, save_quantized
from recurvid.checkpoints.locate import BUNDLED_FOLDER
from recurvid.checkpoints.safetensors_files import open_file
from recurvid.cli import reference

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package folder with a tiny model, the example picture, and no reference yet."""
    folder = write_small_model(tmp_path / "bundled")
    shutil.copy(BUNDLED_FOLDER / reference.PICTURE, folder)
    monkeypatch.setattr(locate, "BUNDLED_FOLDER", folder)
    monkeypatch.setattr(reference, "BUNDLED_FOLDER", folder)
    monkeypatch.setattr(reference, "REQUEST", reference.REQUEST.but(steps=1, size="64"))
    return folder


def test_the_same_machine_passes(capsys: Capsys, bundle: Path) -> None:
    assert run(capsys, "selfcheck", "--write").code == 0
    ran = run(capsys, "selfcheck")
    assert (ran.code, "this machine makes the video" in ran.out) == (0, True)
    (record,) = run(capsys, "selfcheck", "--json").records
    assert record["passed"] is True
    assert record["worst"] == 99.0
    assert len(record["psnr"]) == len(reference.SHOWN)


def test_damaged_weights_do_not_pass(capsys: Capsys, bundle: Path) -> None:
    run(capsys, "selfcheck", "--write")
    checkpoint = dequantized(open_file(bundle / "vae.safetensors"))
    state = {name: checkpoint.tensor(name).clone() for name in checkpoint.keys()}  # noqa: SIM118
    state["decoder.22.weight"] = -state["decoder.22.weight"]
    save_quantized(state, bundle / "vae.safetensors")
    ran = run(capsys, "selfcheck")
    assert ran.code == 5
    assert "differs from the reference" in ran.err
    record = run(capsys, "selfcheck", "--json").records[0]
    assert record["passed"] is False


def test_without_a_reference_it_says_so(capsys: Capsys, bundle: Path) -> None:
    ran = run(capsys, "selfcheck")
    assert (ran.code, "selfcheck.json is missing" in ran.err) == (5, True)


def test_a_reference_for_another_request_is_no_reference(capsys: Capsys, bundle: Path) -> None:
    run(capsys, "selfcheck", "--write")
    path = bundle / reference.FILE
    values = json.loads(path.read_text())
    values["request"]["seed"] += 1
    path.write_text(json.dumps(values))
    ran = run(capsys, "selfcheck")
    assert (ran.code, "another request" in ran.err) == (5, True)


def test_psnr_against_numbers_written_out() -> None:
    grey = np.full((4, 4, 3), 100, np.uint8)
    assert reference.psnr(grey, grey) == 99.0
    # An error of 1 everywhere is 20 log10(255).
    assert reference.psnr(grey, grey + 1) == pytest.approx(48.1308, abs=1e-3)
    assert reference.psnr(grey, np.zeros_like(grey)) == pytest.approx(8.1308, abs=1e-3)
