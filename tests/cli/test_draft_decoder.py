"""Previews, and a decoder of the user's own that draws them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageStat
from safetensors.torch import save_file
from tests.checkpoints.layouts import everything, remote
from tests.cli.command import run
from tests.generation.sessions import write_picture
from tests.generation.tiny_components import TAE, tiny_codec, tiny_components

from recurvid.errors import InputError
from recurvid.generation import draft
from recurvid.generation.local import Local
from recurvid.settings import Settings, settings
from recurvid.vae.taehv import TAEHV, TAEHVConfig

LOOK = Path("s") / "preview.webp"


def write_decoder(path: Path, config: TAEHVConfig = TAE) -> Path:
    """A random file in the published layout: flat tensors, and nothing beside them."""
    torch.manual_seed(7)
    state = TAEHV(config).state_dict() if config is not TAE else tiny_codec().module.state_dict()
    state = {name: value.clone() for name, value in state.items()}
    for name in state:
        if name == "decoder.22.bias":
            state[name] += 0.2  # brighter than the model's own
    save_file(state, path)
    return path


def latents(session: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((session / "sections").iterdir())]


def test_it_draws_the_previews_and_leaves_the_video_alone(
    work: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["generate", "photo.png", *quick, "--seconds", "2"]
    plain = run(capsys, *base, "--session", "plain", "--out", "plain.mp4")
    assert (plain.code, Path("plain/preview.webp").exists()) == (0, False)
    rough = run(capsys, *base, "--session", "rough", "--out", "rough.mp4", "--previews")
    assert rough.code == 0, rough.err
    assert str(work / "rough" / "preview.webp") in rough.err.replace("\n", "")
    write_decoder(work / "tiny.safetensors")
    drawn = run(
        capsys, *base, "--session", "s", "--out", "b.mp4", "--draft-decoder", "tiny.safetensors"
    )
    assert drawn.code == 0, drawn.err
    assert latents(Path("s")) == latents(Path("plain")) == latents(Path("rough"))
    mine, theirs = Image.open(LOOK), Image.open(Path("rough") / "preview.webp")
    assert mine.size == theirs.size == (64, 48)
    assert getattr(mine, "n_frames", 1) == getattr(theirs, "n_frames", 1) > 1
    bright, dark = (ImageStat.Stat(look.convert("L")).mean[0] for look in (mine, theirs))
    assert bright > dark + 10
    local = json.loads(Path("s/local.json").read_text())
    assert local["draft_decoder"] == str(work / "tiny.safetensors")


def test_resume_keeps_it_or_takes_another(
    work: Path,
    quick: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny = write_decoder(work / "tiny.safetensors")
    made = run(capsys, "generate", "photo.png", *quick, "--session", "s", "--out", "a.mp4",
               "--draft-decoder", tiny)  # fmt: skip
    assert made.code == 0, made.err

    def again(*options: str) -> str:
        for made in ("finished.json", "preview.webp"):
            Path("s", made).unlink(missing_ok=True)
        for folder in ("sections", "video"):
            for file in Path("s", folder).iterdir():
                file.unlink()
        Path("a.mp4").unlink()
        resumed = run(capsys, "resume", "s", *options)
        assert resumed.code == 0, resumed.err
        return json.loads(Path("s/local.json").read_text())["draft_decoder"]

    monkeypatch.chdir(work)
    assert again() == str(tiny)
    assert LOOK.exists()
    assert again("--draft-decoder", "none") == "none"
    assert not LOOK.exists()


def test_a_wrong_file_is_refused_in_one_line_before_a_session_begins(
    work: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "text.safetensors").write_text("no tensors")
    (work / "old.pth").write_bytes(b"\x80\x04")
    save_file({"transformer.weight": torch.zeros(2)}, work / "other.safetensors")
    write_decoder(work / "large.safetensors", TAEHVConfig(16, 4, (8, 8, 4, 4)))
    refused = {
        "text.safetensors": "text.safetensors",
        "old.pth": "pickle",
        "other.safetensors": "not a TAEHV file",
        "large.safetensors": "decodes 16 channels by 4x8, the model's latents have 4 by 4x8",
        "none-there.safetensors": "there is no such file",
    }
    for name, words in refused.items():
        ran = run(
            capsys, "generate", "photo.png", *quick, "--session", "s", "--draft-decoder", name
        )
        assert ran.code not in (0, 1), name
        said = [line for line in ran.err.splitlines() if line.startswith("recurvid:")]
        assert len(said) == 1
        assert "draft decoder" in said[0]
        assert words in ran.err.replace("\n", " "), ran.err
        assert not (work / "s").exists()


def test_this_machines_decoder_serves_released_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine.safetensors"
    monkeypatch.setattr(
        draft, "settings", lambda: Settings(tmp_path, None, "cpu", draft_decoder=mine)
    )
    asked = Local("out.mp4", draft_decoder=str(tmp_path / "asked.safetensors"))
    assert draft.draft_file(Local("out.mp4"), bundled=False) == mine
    assert draft.draft_file(Local("out.mp4"), bundled=True) is None
    assert draft.draft_file(asked, bundled=True) == draft.draft_file(asked, bundled=False)
    assert draft.draft_file(Local("out.mp4", draft_decoder="none"), bundled=False) is None
    components = tiny_components()
    draft.use_draft(components, None)
    assert components.draft is None
    with pytest.raises(InputError, match="no such file"):
        draft.use_draft(components, mine)
    draft.use_draft(components, write_decoder(mine))
    look = components.look(torch.randn(1, 4, 3, 40, 80))
    assert look.shape == (3, 128, 256, 3)  # 32 latents on the longer side, eight pixels each


@pytest.mark.e2e
def test_a_released_models_previews_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = everything(tmp_path / "hub", remote(tmp_path / "repositories"))
    tiny = write_decoder(tmp_path / "t.safetensors", TAEHVConfig(16, 4, (8, 8, 4, 4)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECURVID_MODELS", str(hub))
    monkeypatch.setenv("RECURVID_DRAFT_DECODER", str(tiny))
    settings.cache_clear()
    write_picture(tmp_path / "photo.png")
    asked = ["generate", "photo.png", "--prompt", "a walk", "--model", "framepack", "--previews"]
    ran = run(capsys, *asked, "--size", "64x48", "--steps", "2", "--seconds", "1", "--session", "s")
    assert ran.code == 0, ran.err
    assert Image.open(LOOK).size == (64, 48)  # by colours alone it would be 8 x 6
