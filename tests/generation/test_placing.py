"""A whole run under a budget, on tiny checkpoints in the released layout, the CPU as the card."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from tests.checkpoints.layouts import everything, remote
from tests.cli.command import run
from tests.generation.sessions import write_picture
from torch import nn

from recurvid.encoders.small import SmallEmbeds
from recurvid.errors import ComponentError
from recurvid.generation import placing, tuned
from recurvid.generation.journal import Journal
from recurvid.memory.budget import GIB
from recurvid.memory.machine import available_memory
from recurvid.memory.residency import Turns
from recurvid.models.compiled import compile_blocks
from recurvid.models.converted import Conversion
from recurvid.models.packed_dit.model import PackedDiT
from recurvid.models.placed import PlacedDiT, Streaming
from recurvid.settings import settings
from recurvid.vae.hunyuan import HunyuanCodec
from recurvid.vae.lean_decoder import bytes_of_tile

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


@pytest.mark.parametrize("together", [False, True])
def test_same_video_under_a_budget(
    capsys: Capsys, work: Path, monkeypatch: pytest.MonkeyPatch, together: bool
):
    plain = run(capsys, "generate", "photo.png", *QUICK, "--out", "plain.mp4", "--session", "p")
    assert plain.code == 0, plain.err
    made, turns = watched(monkeypatch, together=together)
    ran = run(capsys, "generate", "photo.png", *QUICK, "--out", "placed.mp4", "--session", "s",
              "--vram", "6", "--no-metadata")  # fmt: skip
    assert ran.code == 0, ran.err
    (backbone,) = made
    assert (backbone.stream.device_bytes > 0) == together  # the decoder was the last one there
    assert turns == (["vae", "backbone"] if together else ["vae", "backbone"] * 2 + ["vae"])
    assert same_files(work / "s", work / "p")
    assert Journal.open(work / "s").local.vram == 6.0


def watched(
    monkeypatch: pytest.MonkeyPatch, *, together: bool = False
) -> tuple[list[PlacedDiT], list[str]]:
    """Backbones that are made, and who comes to the device, from now on."""
    made: list[PlacedDiT] = []
    came: list[str] = []
    init, take, plan = PlacedDiT.__init__, Turns.take, placing.plan_memory

    def noted_init(self: PlacedDiT, *args, **kwargs) -> None:
        init(self, *args, **kwargs)
        made.append(self)

    def noted(self: Turns, name: str, *rest) -> None:
        if name not in self._here:
            came.append(name)
        take(self, name, *rest)

    def planned(*args, **kwargs):
        return dataclasses.replace(plan(*args, **kwargs), together=together)

    monkeypatch.setattr(PlacedDiT, "__init__", noted_init)
    monkeypatch.setattr(Turns, "take", noted)
    monkeypatch.setattr(placing, "plan_memory", planned)
    monkeypatch.setattr("recurvid.encoders.encode.PromptCache.get", lambda *_: None)
    return made, came


def same_files(one: Path, other: Path) -> bool:
    names = ("conditioning.safetensors", "sections/0000.safetensors", "sections/0001.safetensors")
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_rounded_weights_are_kept_in_a_file_and_streamed(
    capsys: Capsys, work: Path, monkeypatch: pytest.MonkeyPatch
):
    """The latents of rounding in memory, on a device that holds everything."""
    asked = [*QUICK, "--weights", "int8"]
    plain = run(capsys, "generate", "photo.png", *asked, "--out", "plain.mp4", "--session", "p")
    assert plain.code == 0, plain.err
    for number, few in enumerate((False, True)):
        made, _ = watched(monkeypatch)
        if few:  # as a card with room for one block beside the work
            monkeypatch.setattr(placing, "_streaming", lambda _: Streaming(resident=1))
        ran = run(capsys, "generate", "photo.png", *asked, "--out", f"{number}.mp4", "--session",
                  f"s{number}", "--vram", "6")  # fmt: skip
        assert ran.code == 0, ran.err
        assert same_files(work / f"s{number}", work / "p")
        (kept,) = (work / "home" / "weights").iterdir()
        assert "-int8-bfloat16-" in kept.name
        assert len(made[0].stream.resident) == (1 if few else len(made[0].stream.blocks))


def test_compiled_and_streamed(capsys: Capsys, work: Path, monkeypatch: pytest.MonkeyPatch):
    compiled: list[PackedDiT] = []

    def compiling(model: PackedDiT) -> PackedDiT:
        compiled.append(model)
        return compile_blocks(model, backend="aot_eager")

    monkeypatch.setattr(tuned, "compile_blocks", compiling)
    monkeypatch.setattr(placing, "_streaming", lambda _: Streaming(resident=1))
    made, _ = watched(monkeypatch)
    ran = run(capsys, "generate", "photo.png", *QUICK, "--vram", "6", "--compile", "--session", "s")
    assert ran.code == 0, ran.err
    assert [backbone.model for backbone in made] == compiled
    assert len(made[0].stream.resident) == 1


def test_no_room_for_rounded_weights(capsys: Capsys, work: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(placing, "_free_disk", lambda _: GIB + 5)
    asked = ["generate", "photo.png", *QUICK, "--weights", "int8", "--vram", "6"]
    monkeypatch.setattr(placing, "available_memory", lambda: (6 * GIB, 0))
    ran = run(capsys, *asked, "--session", "s")
    assert ran.code == ComponentError.exit_code
    assert "weights in this form are kept in a file" in ran.err
    monkeypatch.setattr(placing, "available_memory", lambda: (64 * GIB, 0))
    assert run(capsys, *asked, "--session", "s").code == 0  # in memory, then
    assert not (work / "home" / "weights").exists()


def test_refused_before_anything_is_loaded(
    capsys: Capsys, work: Path, monkeypatch: pytest.MonkeyPatch
):
    def never(*_: object, **__: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(Conversion, "load", never)
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
        "6.0 GiB on the device, of which 5.3 GiB may be taken in all and 4.5 GiB by torch",
        "12 of 60 blocks resident, 2 buffers",
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

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("full")

    patch = pytest.MonkeyPatch()
    cpu = torch.device("cpu")
    inner = object.__new__(HunyuanCodec)
    inner.module = Module()  # type: ignore[assignment]
    with patch.context() as patched:
        patched.setattr(HunyuanCodec, "decode_tile", decode)
        codec = placing.TurnTakingCodec(inner, cpu, Turns(cpu), placing.Decoding(256, 8 * GIB))
        assert codec.decode_tile(torch.zeros(1)).item() == 128
        assert sides == [256, 192, 128]
        assert codec.room == bytes_of_tile(128)
        patched.setattr(HunyuanCodec, "decode_tile", full)
        with pytest.raises(ComponentError, match="out of device memory even with tiles of 128 px"):
            codec.decode_tile(torch.zeros(1))


def test_a_text_encoder_comes_again_with_fewer_layers():
    asked: list[int] = []

    def load(layers: int):
        asked.append(layers)

        def encode(texts: list[str]):
            if layers > 1:
                raise torch.OutOfMemoryError("full")
            return SmallEmbeds(torch.zeros(len(texts), 1, 1), torch.ones(len(texts), 1).bool(),
                               torch.zeros(len(texts), 1))  # fmt: skip

        return encode

    made = placing._with_fewer_layers(load, 6, torch.device("cpu"))(["a", "b"])
    assert len(made.text) == 2
    assert asked == [6, 3, 1]

    def never(_: int):
        raise torch.OutOfMemoryError("full")

    with pytest.raises(ComponentError, match="while encoding the prompt"):
        placing._with_fewer_layers(never, 1, torch.device("cpu"))(["a"])


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


def test_the_picture_in_8_bits(capsys: Capsys, work: Path):
    ran = run(capsys, "doctor", "--vram", "16", "--weights", "int8")
    assert ran.code == 0, ran.err
    for piece in ("framepack in int8 at 832x480", "all 60 blocks resident",
                  "7.5 GiB for weights in this form, written once and kept"):  # fmt: skip
        assert piece in ran.out
    ran = run(capsys, "doctor", "--vram", "24", "--json")
    assert '"together": true' in ran.out
    assert run(capsys, "doctor", "--vram", "8", "--weights", "int7").code == 2
