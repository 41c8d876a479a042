"""int8 storage: what goes in comes out within half a step, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from recurvid.checkpoints.formats import open_checkpoint
from recurvid.checkpoints.int8 import dequantized, quantize_rows, save_quantized
from recurvid.errors import CheckpointError


def test_layout_on_disk_and_values(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = {
        "wide.weight": torch.randn(64, 64) * torch.logspace(-4, 2, 64)[:, None],
        "conv.weight": torch.randn(32, 16, 3, 3),
        "wide.bias": torch.randn(64),
        "long.bias": torch.randn(5000),
        "small.weight": torch.randn(63, 65)[:, :64],  # 4,032 elements
        "count": torch.arange(3),
    }
    path = tmp_path / "w.safetensors"
    save_quantized(state, path, {"config": "{}"})
    raw = load_file(path)
    assert {name for name, value in raw.items() if value.dtype == torch.int8} == {
        "wide.weight",
        "conv.weight",
    }
    assert raw["wide.weight.scale"].dtype == torch.float32
    assert raw["wide.weight.scale"].shape == (64,)
    assert raw["conv.weight"].shape == (32, 16, 3, 3)
    assert raw["conv.weight.scale"].shape == (32,)
    for name in ("wide.bias", "long.bias", "small.weight"):
        assert raw[name].dtype == torch.float16
    assert raw["count"].dtype == torch.int64

    checkpoint = dequantized(open_checkpoint(path))
    assert set(checkpoint.keys()) == set(state)
    assert checkpoint.metadata["config"] == "{}"
    for name in ("wide.weight", "conv.weight"):
        value = checkpoint.tensor(name)
        assert checkpoint.dtype(name) == value.dtype == torch.float32
        assert checkpoint.shape(name) == tuple(value.shape)
        rows = state[name].flatten(1)
        half_step = rows.abs().amax(dim=1) / 127 / 2
        error = (value.flatten(1) - rows).abs().amax(dim=1)
        assert (error <= half_step * 1.0001).all()
        assert error.max() > 0
    assert torch.equal(checkpoint.tensor("long.bias"), state["long.bias"].half())


def test_written_out_numbers() -> None:
    codes, scale = quantize_rows(torch.tensor([[254.0, -127.0, 3.0], [0.0, 0.0, 0.0]]))
    assert codes.tolist() == [[127, -64, 2], [0, 0, 0]]  # 63.5 and 1.5 round to even
    assert scale.tolist() == [2.0, 0.0]


def test_tiny_rows_stay_finite(tmp_path: Path) -> None:
    state = {"w": torch.full((64, 64), 1e-42)}
    save_quantized(state, tmp_path / "w.safetensors")
    value = dequantized(open_checkpoint(tmp_path / "w.safetensors")).tensor("w")
    assert value.isfinite().all()
    assert value.abs().max() <= 2e-42


def test_nothing_quantised_is_the_same_checkpoint(tmp_path: Path) -> None:
    save_file(
        {"w": torch.ones(3, 3), "codes": torch.ones(3, dtype=torch.int8)},
        tmp_path / "w.safetensors",
    )
    checkpoint = open_checkpoint(tmp_path / "w.safetensors")
    assert dequantized(checkpoint) is checkpoint


@pytest.mark.parametrize(
    ("value", "reason"),
    [(float("nan"), "NaN or infinity"), (float("inf"), "NaN or infinity"), (1e6, "range of fp16")],
)
def test_values_that_cannot_be_stored(value: float, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=reason):
        save_quantized({"b": torch.tensor([value])}, path)
    assert path.read_bytes() == b"old"


def test_large_values_of_a_matrix_are_fine(tmp_path: Path) -> None:
    save_quantized({"w": torch.full((64, 64), 1e6)}, tmp_path / "w.safetensors")
    value = dequantized(open_checkpoint(tmp_path / "w.safetensors")).tensor("w")
    assert torch.allclose(value, torch.tensor(1e6))


def test_name_that_would_be_a_scale(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"w\.scale would be taken"):
        save_quantized(
            {"w": torch.ones(64, 64), "w.scale": torch.ones(64)}, tmp_path / "w.safetensors"
        )


@pytest.mark.parametrize(
    ("scale", "reason"),
    [(None, "w is int8 without scale"), (torch.ones(5), r"w\.scale is \[5\], not \[4\]"),
     (torch.ones(4, 1), r"w\.scale is \[4, 1\], not \[4\]")],
)  # fmt: skip
def test_damaged_storage(scale: torch.Tensor | None, reason: str, tmp_path: Path) -> None:
    tensors = {"w": torch.ones(4, 2, dtype=torch.int8)}
    if scale is not None:
        tensors["w.scale"] = scale
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=reason):
        dequantized(open_checkpoint(tmp_path / "w.safetensors"))
