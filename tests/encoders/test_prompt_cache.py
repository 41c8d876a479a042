"""The cache on disk: what is kept, what is trusted, and what changes a key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from recurvid.encoders.prompt_cache import PromptCache, content_key, files_key
from recurvid.errors import CheckpointError

ROW = {"text": torch.randn(7, 4, dtype=torch.float16), "pooled": torch.randn(3)}


def test_round_trip_keeps_bits_and_types(tmp_path: Path):
    cache = PromptCache(tmp_path / "made" / "later")
    assert cache.get("k") is None
    cache.put("k", ROW)
    got = cache.get("k")
    assert got is not None
    assert set(got) == set(ROW)
    for name, value in ROW.items():
        assert got[name].dtype == value.dtype
        assert torch.equal(got[name], value)
    assert [p.name for p in cache.folder.iterdir()] == ["k.safetensors"]


def test_views_are_kept_by_value(tmp_path: Path):
    cache = PromptCache(tmp_path)
    cache.put("k", {"text": ROW["text"].T})
    got = cache.get("k")
    assert got is not None
    assert torch.equal(got["text"], ROW["text"].T)


@pytest.mark.parametrize("damage", ["flipped bit", "cut", "empty", "other", "folder"])
def test_a_damaged_entry_is_ignored_and_written_again(tmp_path: Path, damage: str):
    cache = PromptCache(tmp_path)
    cache.put("k", ROW)
    path = tmp_path / "k.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    changed = {"flipped bit": data, "cut": data[:-5], "empty": b"", "other": b"not a file at all"}
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes(changed[damage])
    assert cache.get("k") is None
    cache.put("k", ROW)
    again = cache.get("k")
    if damage == "folder":  # cannot be replaced by a file; the caller does not notice
        assert again is None
    else:
        assert again is not None
        assert torch.equal(again["text"], ROW["text"])


def test_a_foreign_safetensors_file_is_not_trusted(tmp_path: Path):
    from safetensors.torch import save_file

    save_file(ROW, tmp_path / "k.safetensors")
    assert PromptCache(tmp_path).get("k") is None


def test_a_folder_that_cannot_be_written_does_not_fail(tmp_path: Path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    cache = PromptCache(blocked / "cache")
    cache.put("k", ROW)
    assert cache.get("k") is None


def test_keys_tell_every_part_apart():
    base = {"prompt": "a", "dtype": "torch.float16", "crop": 95}
    others = [base | {"prompt": "a "}, base | {"dtype": "torch.float32"}, base | {"crop": 96}]
    keys = {content_key(part) for part in [base, *others]}
    assert len(keys) == 4
    assert content_key(dict(reversed(base.items()))) == content_key(base)


def test_files_key_is_by_content_not_by_place_or_time(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"x" * 100)
    os.utime(tmp_path / "b" / "config.json", (0, 0))
    (tmp_path / "b" / "README.md").write_text("not part of the model")
    assert files_key(tmp_path / "a") == files_key(tmp_path / "b")
    (tmp_path / "b" / "model.safetensors").write_bytes(b"x" * 99 + b"y")
    assert files_key(tmp_path / "a") != files_key(tmp_path / "b")


def test_files_key_of_a_large_file_is_sampled(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.truncate(20_000_000_000)
    empty = files_key(path)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    assert files_key(path) != empty


def test_files_key_names_what_is_missing(tmp_path: Path):
    with pytest.raises(CheckpointError, match="gone"):
        files_key(tmp_path / "gone")
