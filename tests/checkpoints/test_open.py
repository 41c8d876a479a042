"""open_checkpoint: files, shards, folders; lazily, and never a pickle."""

from __future__ import annotations

import gc
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.checkpoints.layouts import INVERTED, transformer_state, write_shards, write_single_file

from recurvid.checkpoints.formats import open_checkpoint
from recurvid.errors import CheckpointError

TENSORS = {f"t{n}": torch.arange(n + 1, dtype=torch.float32) for n in range(9)}
INDEX = "model.safetensors.index.json"


def test_single_file_gives_what_safetensors_gives(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    values: dict[str, torch.Tensor] = {
        "f32": torch.randn(3, 4), "bf16": torch.randn(5).bfloat16(), "f16": torch.randn(2).half(),
        "fp8": torch.randn(8).to(torch.float8_e4m3fn), "i8": torch.arange(-3, 3).to(torch.int8),
        "i64": torch.arange(4), "bool": torch.tensor([True, False]), "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
    }  # fmt: skip
    save_file(values, path, metadata={"note": "hello"})
    checkpoint = open_checkpoint(path)
    theirs = load_file(path)
    assert set(checkpoint.keys()) == set(values)
    assert checkpoint.metadata["note"] == "hello"
    for name, value in theirs.items():
        assert checkpoint.shape(name) == tuple(value.shape)
        assert checkpoint.dtype(name) == value.dtype
        ours = checkpoint.tensor(name)
        assert ours.dtype == value.dtype
        assert torch.equal(ours.view(torch.uint8) if name == "fp8" else ours,
                           value.view(torch.uint8) if name == "fp8" else value)  # fmt: skip
        assert checkpoint.file_of(name) == path


def test_released_folder_equals_its_state_dict(repositories: Path, hub: Path) -> None:
    expected = transformer_state(10)
    snapshot = next((hub / "models--lllyasviel--FramePackI2V_HY" / "snapshots").iterdir())
    for folder in (repositories / INVERTED, snapshot):
        checkpoint = open_checkpoint(folder)
        assert set(checkpoint.keys()) == set(expected)
        assert len(set(map(checkpoint.file_of, checkpoint.keys()))) == 3
        for name, value in expected.items():
            assert torch.equal(checkpoint.tensor(name), value)


def test_index_and_single_file_give_the_same(tmp_path: Path, repositories: Path) -> None:
    write_single_file(tmp_path / "one.safetensors", seed=10)
    one = open_checkpoint(tmp_path / "one.safetensors")
    index = repositories / INVERTED / "diffusion_pytorch_model.safetensors.index.json"
    sharded = open_checkpoint(index)
    assert set(one.keys()) == set(sharded.keys())
    names = one.keys()
    assert all(torch.equal(one.tensor(name), sharded.tensor(name)) for name in names)


def test_shards_that_lost_their_index(tmp_path: Path) -> None:
    write_shards(tmp_path, TENSORS, "model", 3, index=False)
    assert set(open_checkpoint(tmp_path).keys()) == set(TENSORS)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="shards missing: model-00002-of-00003"):
        open_checkpoint(tmp_path)


def test_missing_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path, TENSORS, "model", 3)
    (tmp_path / "model-00003-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00003-of-00003\.safetensors"):
        open_checkpoint(tmp_path)


def test_shard_of_another_checkpoint(tmp_path: Path) -> None:
    write_shards(tmp_path, TENSORS, "model", 3)
    save_file({"stranger": torch.ones(1)}, tmp_path / "model-00002-of-00003.safetensors")
    with pytest.raises(CheckpointError, match=r"00002-of-00003.*t1 is missing"):
        open_checkpoint(tmp_path)


def test_tensor_that_the_index_does_not_know(tmp_path: Path) -> None:
    write_shards(tmp_path, TENSORS, "model", 3)
    shard = tmp_path / "model-00002-of-00003.safetensors"
    save_file({**load_file(shard), "stranger": torch.ones(1)}, shard)
    with pytest.raises(CheckpointError, match=r"stranger is not listed"):
        open_checkpoint(tmp_path)


def test_same_tensor_in_two_shards(tmp_path: Path) -> None:
    for number in (1, 2):
        save_file({"t": torch.ones(1)}, tmp_path / f"model-0000{number}-of-00002.safetensors")
    with pytest.raises(CheckpointError, match="tensor t stands in model-00001"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "shard",
    ["../outside.safetensors", "/etc/outside.safetensors", "sub/outside.safetensors",
     "..\\outside.safetensors", "C:outside.safetensors", "C:\\outside.safetensors",
     "..", "", ".hidden.safetensors", "model.bin", "model.pt", 7, None, ["x"]],
)  # fmt: skip
def test_index_cannot_leave_its_folder(shard: Any, tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (folder / "sub").mkdir()
    for place in (tmp_path, folder / "sub"):
        save_file({"t": torch.ones(1)}, place / "outside.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"t": shard}}))
    with pytest.raises(CheckpointError, match=r"tensor t: .* refused"):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["a\x1b[2J", "a\nb"])
def test_index_cannot_steer_the_terminal(name: str, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {name: "../x.safetensors"}}))
    with pytest.raises(CheckpointError, match="holds control characters") as caught:
        open_checkpoint(tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"weight_map": []}', '{"weight_map": {}}', "[" * 10**5]
)
def test_bad_index(text: str, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(CheckpointError, match=INDEX):
        open_checkpoint(tmp_path)


class _Trap:
    """A pickle that leaves a mark when anyone loads it."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("ending", [".pt", ".pth", ".bin", ".ckpt", ".pkl", ".PT", ".safetensors"])
def test_nothing_is_unpickled(ending: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = tmp_path / f"pytorch_model{ending}"
    path.write_bytes(pickle.dumps(_Trap(mark)))
    with pytest.raises(CheckpointError, match="never opened"):
        open_checkpoint(path)
    assert not mark.exists()
    pickle.loads(path.read_bytes())  # the trap works
    assert mark.exists()


def test_zip_archive_of_torch_under_a_good_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    torch.save({"t": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match="never opened"):
        open_checkpoint(path)


def test_folder_of_pickles_only(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"only pickles \(pytorch_model.bin\)"):
        open_checkpoint(tmp_path)


def test_folder_with_safetensors_and_pickle_takes_the_former(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "pytorch_model.bin")
    save_file(TENSORS, tmp_path / "model.safetensors")
    assert set(open_checkpoint(tmp_path).keys()) == set(TENSORS)


def test_usual_name_wins_over_variants(tmp_path: Path) -> None:
    save_file({"whole": torch.ones(1)}, tmp_path / "diffusion_pytorch_model.safetensors")
    save_file({"other": torch.ones(1)}, tmp_path / "ema.safetensors")
    assert open_checkpoint(tmp_path).keys() == ("whole",)


def test_folder_with_several_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file(TENSORS, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=r"several weights files \(a.safetensors, b.safe"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["nothing.safetensors", "notes.txt", ""])
def test_nothing_to_open(name: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        open_checkpoint(tmp_path / name)


def test_writing_into_a_tensor_does_not_reach_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(TENSORS, path)
    before = path.read_bytes()
    open_checkpoint(path).tensor("t8").fill_(7.0)
    assert path.read_bytes() == before
    assert torch.equal(open_checkpoint(path).tensor("t8"), TENSORS["t8"])


@pytest.mark.parametrize("padding", range(4))
def test_data_that_is_not_aligned(padding: int, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"t": torch.arange(5, dtype=torch.float32), "u": torch.ones(1).bool()}, path)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    moved = (length + padding).to_bytes(8, "little") + data[8 : 8 + length]
    path.write_bytes(moved + b" " * padding + data[8 + length :])
    tensor = open_checkpoint(path).tensor("t")
    assert tensor.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert tensor.data_ptr() % 4 == 0


def test_tensor_outlives_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(TENSORS, path)
    tensor = open_checkpoint(path).tensor("t8")
    gc.collect()
    assert torch.equal(tensor, TENSORS["t8"])


def test_file_that_shrinks_after_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(TENSORS, path)
    checkpoint = open_checkpoint(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="changed while it was open"):
        checkpoint.tensor("t8")


_OPEN_LARGE = """
import os, sys, time
import psutil, torch, safetensors.torch
from recurvid.checkpoints.formats import open_checkpoint
process = psutil.Process()
before, start = process.memory_info().rss, time.perf_counter()
checkpoint = open_checkpoint(sys.argv[1])
tensors = {name: checkpoint.tensor(name) for name in checkpoint.keys()}
seconds, grown = time.perf_counter() - start, process.memory_info().rss - before
size = sum(value.nbytes for value in tensors.values())
last = tensors[checkpoint.keys()[-1]]
print(seconds, grown, size, float(last.view(-1)[-1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="files there are not sparse by default")
def test_26_gb_open_in_under_a_second_without_memory(large_checkpoint: Path) -> None:
    """Names, shapes and all tensors of the real 13B state dict, three shards, zeros."""
    run = subprocess.run(
        [sys.executable, "-c", _OPEN_LARGE, str(large_checkpoint)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds, grown, size, last = map(float, run.stdout.split())
    assert size == 12_874_314_816 * 2
    assert last == 0.0
    assert seconds < 1.0
    assert grown < 50e6
