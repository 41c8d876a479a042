"""A whole run under a budget, on tiny checkpoints in the released layout, the CPU as the card."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from tests.checkpoints.layouts import everything, remote
from tests.cli.command import run
from tests.generation.sessions import write_picture
from torch import nn

from recurvid.errors import ComponentError
from recurvid.generation import placing
from recurvid.generation.journal import Journal
from recurvid.memory.budget import GIB, MemoryBudget
from recurvid.memory.machine import available_memory
from recurvid.memory.residency import Turns
from recurvid.models.placed import PlacedDiT
from recurvid.settings import settings
from recurvid.vae.hunyuan import HunyuanCodec

Capsys = pytest.CaptureFixture[str]
QUICK = ["--prompt", "a walk", "--model", "framepack", "--size", "64x48", "--steps", "2",
         "--seconds", "2"]  # fmt: skip


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return everything(
        tmp_path_factory.mktemp("hub"), remote(tmp_path_factory.mktemp("repositories"))
    )


@pytest.fixture
def work(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECURVID_MODELS", str(hub))
    monkeypatch.setenv("RECURVID_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    write_picture(tmp_path / "photo.png")
    return tmp_path


def test_same_video_under_a_budget(capsys: Capsys, work: Path, monkeypatch: pytest.MonkeyPatch):
    plain = run(capsys, "generate", "photo.png", *QUICK, "--out", "plain.mp4", "--session", "p")
    assert plain.code == 0, plain.err
    made: list[PlacedDiT] = []
    turns: list[str] = []
    take = Turns.take

    init = PlacedDiT.__init__

    def noted_init(self: PlacedDiT, *args, **kwargs) -> None:
        init(self, *args, **kwargs)
        made.append(self)

    def noted(self: Turns, name: str, *rest) -> None:
        if name != self.current:
            turns.append(name)
        take(self, name, *rest)

    monkeypatch.setattr(PlacedDiT, "__init__", noted_init)
    monkeypatch.setattr(Turns, "take", noted)
    monkeypatch.setattr("recurvid.encoders.encode.PromptCache.get", lambda *_: None)
    ran = run(capsys, "generate", "photo.png", *QUICK, "--out", "placed.mp4", "--session", "s",
              "--vram", "6", "--no-metadata")  # fmt: skip
    assert ran.code == 0, ran.err
    (backbone,) = made
    assert backbone.stream.device_bytes == 0  # the decoder was the last one there
    assert turns == ["vae", "backbone", "vae", "backbone", "vae"]
    for file in ("conditioning.safetensors", "sections/0000.safetensors",
                 "sections/0001.safetensors"):  # fmt: skip
        assert (work / "s" / file).read_bytes() == (work / "p" / file).read_bytes(), file
    assert Journal.open(work / "s").local.vram == 6.0


def test_refused_before_anything_is_loaded(
    capsys: Capsys, work: Path, monkeypatch: pytest.MonkeyPatch
):
    def never(*_: object, **__: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(placing, "load_backbone", never)
    monkeypatch.setattr(placing, "available_memory", lambda: (2 * GIB, 0))
    ran = run(capsys, "generate", "photo.png", *QUICK, "--vram", "6", "--session", "s")
    assert ran.code == ComponentError.exit_code
    assert "framepack at 64x48 does not fit" in ran.err
    assert "2.0 GiB are free and no swap" in ran.err
    assert not (work / "s").exists()


def test_resume_takes_another_budget(capsys: Capsys, work: Path):
    run(capsys, "generate", "photo.png", *QUICK, "--vram", "6", "--session", "s")
    (work / "photo.mp4").unlink()
    (work / "s/sections/0001.safetensors").unlink()
    for segment in (work / "s/video").iterdir():
        segment.unlink()
    ran = run(capsys, "resume", "s", "--vram", "8")
    assert ran.code == 0, ran.err
    assert Journal.open(work / "s").local.vram == 8.0


def test_the_picture(capsys: Capsys, work: Path):
    ran = run(capsys, "doctor", "--model", "framepack", "--size", "832x480", "--vram", "6")
    assert ran.code == 0, ran.err
    for piece in (
        "6.0 GiB on the device, of which 5.3 GiB may be taken in all and 4.7 GiB by torch",
        "6 of 60 blocks resident, 2 buffers",
        "system memory",
        "disk",
    ):
        assert piece in ran.out
    bars = [line for line in ran.out.splitlines() if "▏" in line]
    assert len(bars) == 7
    assert len({line.index("▕") for line in bars}) == 1  # all as long as the card


def test_the_picture_of_what_does_not_fit(capsys: Capsys, work: Path):
    ran = run(capsys, "doctor", "--size", "1920x1088", "--vram", "4")
    assert "does not fit: denoise takes" in ran.out
    assert run(capsys, "doctor", "--model", "bundled", "--vram", "4").code == 2
    assert run(capsys, "doctor", "--model", "nothing", "--vram", "4").code == 2


def test_smaller_tiles_where_the_device_is_fuller_than_planned():
    sides: list[int] = []

    class Module(nn.Module):
        config: ClassVar = {"latent_channels": 16, "temporal_compression_ratio": 4,
                  "spatial_compression_ratio": 8, "scaling_factor": 1.0}  # fmt: skip

        def enable_tiling(self, *, tile_sample_min_height: int, **_: object) -> None:
            sides.append(tile_sample_min_height)

    def decode(codec: HunyuanCodec, latents: torch.Tensor) -> torch.Tensor:
        if sides[-1] > 150:
            raise torch.OutOfMemoryError("full")
        return latents + sides[-1]

    patch = pytest.MonkeyPatch()
    cpu = torch.device("cpu")
    inner = object.__new__(HunyuanCodec)
    inner.module = Module()  # type: ignore[assignment]
    with patch.context() as patched:
        patched.setattr(HunyuanCodec, "decode_tile", decode)
        codec = placing.TurnTakingCodec(inner, cpu, Turns(cpu), 256)
        assert codec.decode_tile(torch.zeros(1)).item() == 128
    assert sides == [256, 192, 128]


def test_available_memory_heeds_a_control_group(tmp_path: Path):
    info = tmp_path / "meminfo"
    info.write_text("MemTotal: 9000 kB\nMemAvailable:  8000 kB\nSwapFree: 10 kB\n")
    assert available_memory(info, tmp_path) == (8000 * 1024, 10 * 1024)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5000\n")
    assert available_memory(info, tmp_path) == (8000 * 1024, 10 * 1024)
    (tmp_path / "memory.max").write_text("6000\n")
    (tmp_path / "memory.stat").write_text("anon 1000\ninactive_file 300\nactive_file 200\n")
    assert available_memory(info, tmp_path) == (6000 - 4500, 10 * 1024)


def test_all_of_a_large_card_is_taken_as_before():
    from recurvid.generation.memory_plan import MemoryQuestion, plan_memory

    question = MemoryQuestion("f1k1_x_g9_f1k1f2k2f16k4_td", 480, 832)
    assert placing._fits_at_once(plan_memory(MemoryBudget.of(80), question))
    assert not placing._fits_at_once(plan_memory(MemoryBudget.of(24), question))
