"""Weights written in another form: the bits of converting in memory, from a file."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.dit_cases import Case, randomise

from recurvid.checkpoints.writing import sampled_digest, write_streamed
from recurvid.errors import ComponentError
from recurvid.models import converted
from recurvid.models.converted import Conversion
from recurvid.models.loading import load_backbone
from recurvid.models.packed_dit.config import PackedDiTConfig
from recurvid.models.packed_dit.model import PackedDiT
from recurvid.models.quantized import bears_few_bits, quantize

CONFIG = PackedDiTConfig(
    num_attention_heads=2,
    attention_head_dim=32,
    num_layers=1,
    num_single_layers=2,
    num_refiner_layers=1,
    text_embed_dim=12,
    pooled_projection_dim=8,
    image_proj_dim=10,
    rope_axes_dim=(8, 12, 12),
)
BF16 = torch.bfloat16


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "dit.safetensors", BF16)


def write(path: Path, dtype: torch.dtype, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    model = PackedDiT(CONFIG)
    randomise(model)
    save_file(model.to(dtype).state_dict(), path)
    path.with_suffix(".json").write_text(json.dumps(CONFIG.to_dict()))
    return path


def same(a: PackedDiT, b: PackedDiT) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(
        one[k].dtype == two[k].dtype and one[k].view(torch.uint8).equal(two[k].view(torch.uint8))
        for k in one
    )


@pytest.mark.parametrize("form", ["int8", "fp8", "int8-weights", "nf4", "int4"])
@pytest.mark.parametrize("on_disk", [True, False])
def test_the_bits_of_rounding_in_memory(source: Path, tmp_path: Path, form: str, on_disk: bool):
    conversion = Conversion(source, form, BF16)
    path = conversion.write(tmp_path / "kept") if on_disk else None
    model = conversion.load(path)
    expected = load_backbone(source, dtype=BF16)
    quantize(expected, form)
    assert same(model, expected)
    assert [type(m) for m in model.modules()] == [type(m) for m in expected.modules()]


def test_only_what_changed_is_written(source: Path, tmp_path: Path):
    conversion = Conversion(source, "int8", BF16)
    path = conversion.write(tmp_path)
    held = load_file(path)
    assert {n.rpartition(".")[2] for n in held} == {"weight", "scale"}
    assert all(bears_few_bits(name.rpartition(".")[0]) for name in held)
    assert conversion.size == sum(t.nbytes for t in held.values())
    assert conversion.size < path.stat().st_size < conversion.size + 20_000


def test_another_number_type(tmp_path: Path):
    source = write(tmp_path / "dit.safetensors", torch.float32)
    conversion = Conversion(source, "auto", BF16)
    assert same(conversion.load(conversion.write(tmp_path)), load_backbone(source, dtype=BF16))
    rounded = Conversion(source, "int8", BF16)
    expected = load_backbone(source, dtype=BF16)
    quantize(expected, "int8")
    assert same(rounded.load(rounded.write(tmp_path)), expected)


def test_nothing_to_do_where_the_source_serves(source: Path):
    conversion = Conversion(source, "auto", BF16)
    assert conversion.size == 0
    assert same(conversion.load(), load_backbone(source, dtype=BF16))


def test_written_once(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert not Conversion(source, "int8", BF16).is_in(tmp_path)
    path = Conversion(source, "int8", BF16).write(tmp_path)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("written again")

    monkeypatch.setattr(converted, "write_streamed", never)
    again = Conversion(source, "int8", BF16)
    assert again.is_in(tmp_path)
    assert again.write(tmp_path) == path


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_damaged_file_is_written_again(source: Path, tmp_path: Path, damage: str):
    conversion = Conversion(source, "int8", BF16)
    path = conversion.write(tmp_path)
    good = path.read_bytes()
    if damage == "cut":
        path.write_bytes(good[: len(good) // 2])
    else:
        save_file({"a": torch.zeros(3)}, path)
    assert not conversion.is_in(tmp_path)
    assert conversion.write(tmp_path).read_bytes() == good


def test_one_name_a_content(source: Path, tmp_path: Path):
    name = Conversion(source, "int8", BF16).file_name
    other = tmp_path / "elsewhere"
    other.mkdir()
    copy = write(other / "dit.safetensors", BF16)
    assert Conversion(copy, "int8", BF16).file_name == name
    assert Conversion(source, "fp8", BF16).file_name != name
    assert Conversion(source, "int8", torch.float16).file_name != name
    changed = write(other / "dit.safetensors", BF16, seed=1)
    assert Conversion(changed, "int8", BF16).file_name != name


def test_the_digest_sees_a_change_in_any_wide_matrix(tmp_path: Path):
    path = tmp_path / "weights"
    path.write_bytes(bytes(2048 * 4096 * 2))
    before = sampled_digest([path])
    with path.open("r+b") as file:
        file.seek(5_000_000)
        file.write(b"x" * 16_384)
    assert sampled_digest([path]) != before


def test_a_full_disk_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ComponentError, match=r"No space left on device.*GB are needed"):
        Conversion(source, "int8", BF16).write(tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []


def test_what_killed_writers_left_is_removed(source: Path, tmp_path: Path):
    old, new = (tmp_path / f".recurvid-{n}.partial.safetensors" for n in ("0a", "0b"))
    for path in (old, new):
        path.write_bytes(b"half")
    long_ago = time.time() - 2 * 3600
    os.utime(old, (long_ago, long_ago))
    Conversion(source, "int8", BF16).write(tmp_path)
    assert not old.exists()
    assert new.exists()  # somebody may be writing it


MEASURE = """
import sys, threading, time
from pathlib import Path
import torch
from recurvid.models.converted import Conversion

def anonymous():
    text = Path("/proc/self/status").read_text()
    return next(int(l.split()[1]) for l in text.splitlines() if l.startswith("RssAnon")) * 1024

before, most = anonymous(), [0]
def watch():
    while True:
        most[0] = max(most[0], anonymous())
        time.sleep(0.002)
threading.Thread(target=watch, daemon=True).start()
conversion = Conversion(sys.argv[1], "int8", torch.bfloat16)
model = conversion.load(conversion.write(Path(sys.argv[2])))
sum(int(p.view(torch.uint8)[:1].sum()) for p in (*model.parameters(), *model.buffers()) if p.ndim)
print(conversion.size, most[0] - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_one_layer_is_in_memory_at_a_time(tmp_path: Path):
    """0.45 GB of 8-bit weights are made, written and mapped in a fraction of that."""
    config = PackedDiTConfig(num_attention_heads=12, num_layers=4, num_single_layers=8)
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in PackedDiT(config).state_dict().items()}
    some = torch.randn(2**20).bfloat16()

    def drawn(shape: torch.Size) -> torch.Tensor:
        count = shape.numel()
        return some.repeat(-(-count // len(some)))[:count].view(shape)

    path = tmp_path / "dit.safetensors"
    layout = {k: torch.empty(v, dtype=BF16, device="meta") for k, v in shapes.items()}
    write_streamed(path, layout, ((k, drawn(v)) for k, v in shapes.items()), {})
    path.with_suffix(".json").write_text(json.dumps(config.to_dict()))
    command = [sys.executable, "-c", MEASURE, str(path), str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    size, most = map(int, run.stdout.split())
    assert size > 0.4e9
    assert most < 0.15e9


def test_a_wrong_order_is_not_written(tmp_path: Path):
    layout = {"a": torch.zeros(2), "b": torch.zeros(3)}
    with pytest.raises(ValueError, match="where a was announced"):
        write_streamed(tmp_path / "f.safetensors", layout, reversed(layout.items()), {})
    assert list(tmp_path.iterdir()) == []


def test_other_shapes_of_model(tmp_path: Path):
    """A model whose widths 4-bit groups do not divide keeps those layers."""
    case = Case(3)
    torch.manual_seed(0)
    model = PackedDiT(case.config)
    randomise(model)
    path = tmp_path / "m.safetensors"
    save_file(model.state_dict(), path)
    conversion = Conversion(path, "nf4", torch.float32, case.config)
    quantize(model, "nf4")
    assert same(conversion.load(conversion.write(tmp_path)), model)
