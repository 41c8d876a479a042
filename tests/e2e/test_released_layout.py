"""The released models' whole path, on tiny checkpoints in the exact layouts that people have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.checkpoints.layouts import everything, remote
from tests.cli.command import run
from tests.generation.sessions import write_picture

from recurvid.errors import CheckpointError
from recurvid.generation.journal import Journal
from recurvid.generation.tensor_files import load_conditioning
from recurvid.settings import settings
from recurvid.video.reader import probe

pytestmark = pytest.mark.e2e
Capsys = pytest.CaptureFixture[str]
QUICK = ["--size", "64x48", "--steps", "2"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return everything(
        tmp_path_factory.mktemp("hub"), remote(tmp_path_factory.mktemp("repositories"))
    )


@pytest.fixture
def work(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECURVID_MODELS", str(hub))
    settings.cache_clear()
    write_picture(tmp_path / "photo.png")
    return tmp_path


@pytest.mark.parametrize(
    ("model", "order"), [("framepack", "inverted"), ("framepack-f1", "forward")]
)
def test_by_name(capsys: Capsys, work: Path, model: str, order: str) -> None:
    ran = run(capsys, "generate", "photo.png", "--prompt", "a walk", "--model", model, *QUICK,
              "--seconds", "2", "--session", "s")  # fmt: skip
    assert ran.code == 0, ran.err
    assert "2 sections, 60 frames at 30 fps" in ran.err
    assert probe(work / "photo.mp4").frames == 60
    plan = json.loads((work / "s/plan.json").read_text())
    assert (plan["order"], plan["request"]["guidance_scale"]) == (order, 10.0)
    _, positive, negative = load_conditioning(Journal.open(work / "s").conditioning_path)
    assert positive.text.shape == (1, 512, 32)
    assert positive.image is not None
    assert positive.image.shape == (1, 4, 16)
    assert positive.guidance is not None
    assert positive.guidance.tolist() == [10.0]
    assert negative is None


def test_prompts_are_encoded_once_for_all_videos(
    capsys: Capsys, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--prompt", "a walk", "--model", "framepack", *QUICK, "--seconds", "1"]
    assert run(capsys, "generate", "photo.png", *options).code == 0

    def gone(*_: object, **__: object) -> None:
        raise CheckpointError("LLaMA was loaded again")

    monkeypatch.setattr("recurvid.encoders.encode.load_llama", gone)
    assert run(capsys, "generate", "photo.png", *options, "--seed", "2").code == 0
    ran = run(capsys, "generate", "photo.png", *options, "--prompt", "a run")
    assert (ran.code, "LLaMA was loaded again" in ran.err) == (4, True)


def test_negative_prompt_and_both_guidances(capsys: Capsys, work: Path) -> None:
    ran = run(capsys, "generate", "photo.png", "--model", "framepack", *QUICK, "--seconds", "1",
              "--cfg-scale", "2", "--negative-prompt", "blur", "--guidance-scale", "6",
              "--session", "s")  # fmt: skip
    assert ran.code == 0, ran.err
    _, positive, negative = load_conditioning(Journal.open(work / "s").conditioning_path)
    assert negative is not None
    assert positive.guidance is not None
    assert positive.guidance.tolist() == [6.0]
    assert not positive.pooled.equal(negative.pooled)


def test_resumed_without_the_encoders(
    capsys: Capsys, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--prompt", "a walk", "--model", "framepack", *QUICK, "--seconds", "2"]
    run(capsys, "generate", "photo.png", *options, "--session", "s")
    expected = (work / "photo.mp4").read_bytes()
    (work / "photo.mp4").unlink()
    (work / "s/sections/0001.safetensors").unlink()
    for segment in (work / "s/video").iterdir():
        segment.unlink()

    def gone(*_: object, **__: object) -> None:
        raise AssertionError("an encoder was loaded")

    monkeypatch.setattr("recurvid.encoders.encode.load_llama", gone)
    monkeypatch.setattr("recurvid.generation.loading.load_siglip", gone)
    ran = run(capsys, "resume", "s")
    assert ran.code == 0, ran.err
    assert (work / "photo.mp4").read_bytes() == expected


def test_other_weights_are_noticed(capsys: Capsys, work: Path, tmp_path: Path) -> None:
    options = ["--model", "framepack", *QUICK, "--seconds", "2", "--session", "s"]
    run(capsys, "generate", "photo.png", *options)
    (work / "photo.mp4").unlink()
    (work / "s/sections/0001.safetensors").unlink()
    for segment in (work / "s/video").iterdir():
        segment.unlink()
    local = json.loads((work / "s/local.json").read_text())
    (work / "s/local.json").write_text(json.dumps({**local, "model": "framepack-f1"}))
    ran = run(capsys, "resume", "s")
    assert ran.code == 6
    assert "weights of transformer" in ran.err
    assert "--force" in ran.err
    assert run(capsys, "resume", "s", "--force").code == 0
