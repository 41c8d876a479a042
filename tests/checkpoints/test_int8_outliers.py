"""Weights that tower over their row are kept apart, so that the others keep their precision."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from recurvid.checkpoints.formats import open_checkpoint
from recurvid.checkpoints.int8 import dequantized, save_quantized
from recurvid.errors import CheckpointError


def tapped() -> torch.Tensor:
    """A convolution that passes its input on: taps of 1 among weights of 0.01."""
    weight = torch.randn(64, 64, 3, 3, generator=torch.Generator().manual_seed(0)) * 0.01
    weight[torch.arange(64), torch.arange(64), 1, 1] = 1.0
    return weight


def test_small_weights_beside_a_tap_survive(tmp_path: Path) -> None:
    weight = tapped()
    save_quantized({"w": weight}, tmp_path / "a.safetensors")
    back = dequantized(open_checkpoint(tmp_path / "a.safetensors")).tensor("w")
    small = weight.abs() < 0.5
    # one step of plain int8 would be 1 / 127 = 0.0079, as large as the weights themselves
    assert float((back - weight)[small].abs().max()) < 0.0003
    assert torch.allclose(back[~small], weight[~small], atol=1e-3)


def test_names_and_size_stay_modest(tmp_path: Path) -> None:
    save_quantized({"w": tapped()}, tmp_path / "a.safetensors")
    opened = open_checkpoint(tmp_path / "a.safetensors")
    assert dequantized(opened).keys() == ("w",)
    assert (tmp_path / "a.safetensors").stat().st_size < 64 * 64 * 9 + 64 * 10 + 600


def test_well_spread_weights_have_no_outliers(tmp_path: Path) -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(1)).clamp(-3, 3)
    save_quantized({"w": weight}, tmp_path / "a.safetensors")
    assert set(load_file(tmp_path / "a.safetensors")) == {"w", "w.scale"}


@pytest.mark.parametrize("damage", ["beyond", "negative", "alone", "uneven"])
def test_damaged_outliers_get_one_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.safetensors"
    save_quantized({"w": tapped()}, path)
    tensors = load_file(path)
    if damage == "beyond":
        tensors["w.outliers"][0] = 64 * 64 * 9
    elif damage == "negative":
        tensors["w.outliers"][0] = -1
    elif damage == "alone":
        del tensors["w.values"]
    else:
        tensors["w.values"] = tensors["w.values"][1:].clone()
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"a\.safetensors"):
        dequantized(open_checkpoint(path)).tensor("w")
