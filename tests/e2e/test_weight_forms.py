"""Attention kernel and form of weights, from the command line to a resumed session."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.architecture.source import ROOT
from tests.cli.command import run
from tests.e2e.model_folders import write_small_model
from tests.generation.sessions import write_picture

pytestmark = pytest.mark.e2e
Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    model = write_small_model(tmp_path / "small")
    picture = write_picture(tmp_path / "p.png")
    return [str(picture), "--model", f"bundled={model}", "--size", "64x48", "--steps", "2",
            "--seconds", "1", "--device", "cpu"]  # fmt: skip


def test_a_session_keeps_its_form_and_kernel(capsys: Capsys, quick: list[str]) -> None:
    ran = run(capsys, "generate", *quick, "--weights", "int8", "--attention", "reference",
              "--session", "s", "--out", "a.mp4")  # fmt: skip
    assert ran.code == 0, ran.err
    mark = json.loads(Path("s/fingerprint.json").read_text())
    assert mark["form of weights"] == "int8"
    assert mark["attention"] == "reference"
    plain = run(capsys, "generate", *quick, "--session", "t", "--out", "b.mp4")
    assert plain.code == 0, plain.err
    latents = [next(Path(s, "sections").iterdir()).read_bytes() for s in "st"]
    assert latents[0] != latents[1]


def test_a_session_does_not_go_on_in_another_form(capsys: Capsys, quick: list[str]) -> None:
    assert run(capsys, "generate", *quick, "--session", "s", "--out", "a.mp4").code == 0
    for path in [*Path("s/video").iterdir(), *Path("s/sections").iterdir()]:
        path.unlink()
    Path("s/finished.json").unlink()
    Path("a.mp4").unlink()
    ran = run(capsys, "resume", "s", "--weights", "nf4")
    assert ran.code != 0
    assert "form of weights (auto -> nf4)" in ran.err
    forced = run(capsys, "resume", "s", "--weights", "nf4", "--force")
    assert forced.code == 0, forced.err


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--attention", "warp", "unknown attention kernel 'warp'"),
        ("--attention", "flash2", "kernel 'flash2' cannot be used here: it takes float16"),
        ("--weights", "q3", "weights 'q3' are unknown; known: int8, fp8"),
    ],
)
def test_what_cannot_run_says_why(
    capsys: Capsys, quick: list[str], option: str, value: str, why: str
) -> None:
    ran = run(capsys, "generate", *quick, option, value)
    assert ran.code != 0
    assert why in " ".join(ran.err.split())


def test_the_script_that_times_a_step_runs(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/step_speed.py"), "--tiny",
         "--variants", "checks,eager,int8-fused"],
        capture_output=True, text=True, env={"OUT": str(tmp_path), "OMP_NUM_THREADS": "1",
                                             "PATH": ""},
    )  # fmt: skip
    assert said.returncode == 0, said.stdout + said.stderr
    (file,) = tmp_path.glob("step-speed-tiny-*.json")
    found = json.loads(file.read_text())
    assert found["variants"]["eager"]["error_bf16"] == 0
    assert 0.001 < found["variants"]["int8-fused"]["error_bf16"] < 0.03
    assert all(c["passed"] for c in found["checks"].values() if isinstance(c, dict))
