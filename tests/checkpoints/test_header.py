"""Damaged and hostile safetensors headers get one line that names the file and the tensor."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from recurvid.checkpoints.formats import open_checkpoint
from recurvid.errors import CheckpointError


def entry(begin: int, end: int, shape: list[Any] | None = None, dtype: Any = "F32") -> Any:
    shape = [(end - begin) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def write(path: Path, header: Any, data: int) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))
    return path


ATTACKS: dict[str, tuple[Any, int, str]] = {
    "overlap": ({"a": entry(0, 8), "b": entry(4, 12)}, 12, "tensor b overlaps a"),
    "same place": ({"a": entry(0, 8), "b": entry(0, 8)}, 8, "tensor b overlaps a"),
    "hole": ({"a": entry(0, 8), "b": entry(12, 16)}, 16, "4 unexplained bytes before tensor b"),
    "leading hole": ({"a": entry(4, 8)}, 8, "4 unexplained bytes before tensor a"),
    "tail": ({"a": entry(0, 8)}, 11, "3 unexplained bytes at the end"),
    "beyond the file": ({"a": entry(0, 8), "b": entry(8, 16)}, 12, "truncated at tensor b"),
    "descending": ({"a": entry(8, 0, [2])}, 8, "tensor a: data_offsets"),
    "negative": ({"a": entry(-8, 0, [2])}, 8, "tensor a: data_offsets"),
    "float offsets": ({"a": entry(0.0, 8.0, [2])}, 8, "tensor a: data_offsets"),  # type: ignore
    "one offset": ({"a": {"dtype": "F32", "shape": [], "data_offsets": [0]}}, 4, "data_offsets"),
    "bool size": ({"a": entry(0, 4, [True])}, 4, "tensor a: shape"),
    "negative size": ({"a": entry(0, 8, [-1, -2])}, 8, "tensor a: shape"),
    "huge size": ({"a": entry(0, 8, [2**62, 2**62])}, 8, "tensor a: 8 bytes in the file"),
    "size above int64": ({"a": entry(0, 8, [2**70])}, 8, "tensor a: shape"),
    "lying shape": ({"a": entry(0, 8, [3])}, 8, "tensor a: 8 bytes in the file, but F32 [3] takes"),
    "unknown type": ({"a": entry(0, 8, [2], "Q9")}, 8, "type 'Q9' is not supported"),
    "type no text": ({"a": entry(0, 8, [2], 7)}, 8, "type '7' is not supported"),
    "terminal": ({"a\x1b[2J": entry(0, 8)}, 8, r"tensor name 'a\x1b[2J' holds control"),
    "two lines": ({"a\nb": entry(0, 8)}, 8, r"tensor name 'a\nb' holds control"),
    "entry no object": ({"a": [1, 2]}, 8, "tensor a: header entry is not an object"),
    "metadata no map": ({"__metadata__": [1], "a": entry(0, 8)}, 8, "__metadata__"),
    "metadata no text": ({"__metadata__": {"x": 1}, "a": entry(0, 8)}, 8, "__metadata__"),
    "list": ([1, 2], 8, "header is not a JSON object"),
    "no JSON": (b"{not json", 8, "header is not valid JSON"),
    "no UTF-8": (b'{"\xff\xfe": 1}', 8, "header is not valid JSON"),
    "name twice": (
        b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},'
        b'"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
        0,
        "a name stands twice",
    ),
    "deep nesting": (b"[" * 200_000, 8, "header is not valid JSON"),
    "endless number": (b'{"a": ' + b"9" * 100_000 + b"}", 8, "header is not valid JSON"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_gets_one_line(attack: str, tmp_path: Path) -> None:
    header, data, expected = ATTACKS[attack]
    path = write(tmp_path / "bad.safetensors", header, data)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert expected in message
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 600


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**12, 100_000_001])
def test_oversized_header_length_reads_nothing(length: int, tmp_path: Path) -> None:
    path = tmp_path / "big.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{" + bytes(100))
    with pytest.raises(CheckpointError, match="claims a header of"):
        open_checkpoint(path)


def test_header_longer_than_file(tmp_path: Path) -> None:
    path = tmp_path / "short.safetensors"
    path.write_bytes(struct.pack("<Q", 5000) + b'{"a": ')
    with pytest.raises(CheckpointError, match="truncated inside the header"):
        open_checkpoint(path)


@pytest.mark.parametrize("size", [0, 1, 7])
def test_nearly_empty_file(size: int, tmp_path: Path) -> None:
    path = tmp_path / "empty.safetensors"
    path.write_bytes(bytes(size))
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"PK\x03\x04archive/data.pkl", "zip or pickle archive, which is never opened"),
        (b"\x80\x02}q\x00(X\x05\x00\x00\x00", "pickle, which is never opened"),
        (b"GGUF\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs pointer"),
        (b"<!DOCTYPE html><html>", "web page"),
    ],
)
def test_file_under_a_false_name(start: bytes, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "false.safetensors"
    path.write_bytes(start + bytes(64))
    with pytest.raises(CheckpointError, match=kind):
        open_checkpoint(path)


def test_header_length_that_looks_like_a_pickle_is_fine(tmp_path: Path) -> None:
    # 0x0280 = 640 bytes of header: the file starts with the two bytes of a protocol-2 pickle.
    text = json.dumps({"a": entry(0, 8)}).encode().ljust(0x0280)
    path = write(tmp_path / "good.safetensors", text, 8)
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert open_checkpoint(path).tensor("a").tolist() == [0.0, 0.0]


def test_truncation_anywhere_is_noticed(tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    save_file({"first": torch.ones(64), "second": torch.ones(64)}, whole)
    data = whole.read_bytes()
    cut = tmp_path / "cut.safetensors"
    for size in range(0, len(data), 7):
        cut.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match=r"truncated|not a safetensors"):
            open_checkpoint(cut)
    cut.write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match="truncated at tensor second"):
        open_checkpoint(cut)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_flipped_bytes_never_give_another_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever stands in the header: a checkpoint opens or CheckpointError says why not."""
    folder = tmp_path_factory.getbasetemp() / "flips"
    folder.mkdir(exist_ok=True)
    path = folder / "flip.safetensors"
    save_file({"a": torch.ones(3, 2), "b": torch.ones(2, dtype=torch.int64)}, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 41))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        checkpoint = open_checkpoint(path)
        names = checkpoint.keys()
        for name in names:
            assert tuple(checkpoint.tensor(name).shape) == checkpoint.shape(name)
    except CheckpointError:
        pass
