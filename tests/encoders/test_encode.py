"""One encoder in memory at a time, none when the cache has everything; damaged files by name."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.encoders.tiny_encoders import PROMPT, save_text_encoders, tiny_siglip

from recurvid.encoders import encode
from recurvid.encoders.encode import PromptEncoder, TextFiles, padded
from recurvid.encoders.image import PictureRecipe, load_siglip, read_recipe
from recurvid.encoders.prompt_cache import PromptCache
from recurvid.encoders.text import load_clip, load_llama
from recurvid.errors import CheckpointError, NumericsError, PictureError


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> TextFiles:
    return save_text_encoders(tmp_path_factory.mktemp("hunyuan"))


class Watched:
    """Stands for both encoders: says which are alive when one is loaded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, width: int, value: float = 1.0):
        self.loads: list[str] = []
        self.alive: list[weakref.ref[Any]] = []
        self.freed: list[Any] = []
        monkeypatch.setattr(encode, "free", self.freed.append)
        for name, shape in (("llama", (5, width)), ("clip", (width,))):
            monkeypatch.setattr(encode, f"load_{name}", self._loader(name, shape, value))

    def _loader(self, name: str, shape: tuple[int, ...], value: float):
        def load(*_: Any, **__: Any):
            assert not any(ref() for ref in self.alive)
            self.loads.append(name)

            class Encoder:
                def __call__(self, text: str) -> torch.Tensor:
                    return torch.full(shape, value * len(text))

            encoder = Encoder()
            self.alive.append(weakref.ref(encoder))
            return encoder

        return load


def test_encoders_come_one_after_the_other_and_leave(
    files: TextFiles, monkeypatch: pytest.MonkeyPatch
):
    watched = Watched(monkeypatch, 4)
    embeds = PromptEncoder(files, dtype=torch.float32)(["ab", "abc", "ab"])
    assert watched.loads == ["llama", "clip"]
    assert watched.freed == ["cpu", "cpu"]
    assert not any(ref() for ref in watched.alive)
    assert embeds.text[:, 0, 0].tolist() == [2, 3, 2]
    assert embeds.mask.sum(1).tolist() == [5, 5, 5]
    assert embeds.pooled[:, 0].tolist() == [2, 3, 2]


def test_what_is_cached_loads_nothing(
    files: TextFiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    watched = Watched(monkeypatch, 4)
    cache = PromptCache(tmp_path)
    first = PromptEncoder(files, cache=cache)(["ab", "abc"])
    again = PromptEncoder(files, cache=cache)(["abc", "ab"])
    assert watched.loads == ["llama", "clip"]
    assert torch.equal(first.text.flip(0), again.text)
    assert torch.equal(first.pooled.flip(0), again.pooled)
    assert first.text.dtype is torch.float16
    more = PromptEncoder(files, cache=cache)(["abc", "abcd"])
    assert watched.loads == ["llama", "clip"] * 2
    assert more.pooled[:, 0].tolist() == [3, 4]
    PromptEncoder(files, cache=cache, dtype=torch.float32)(["ab"])
    assert watched.loads == ["llama", "clip"] * 3
    assert len(list(tmp_path.iterdir())) == 4


def test_other_weights_are_other_entries(
    files: TextFiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    watched = Watched(monkeypatch, 4)
    cache = PromptCache(tmp_path / "cache")
    PromptEncoder(files, cache=cache)(["ab"])
    other = save_text_encoders(tmp_path / "other", seed=1)
    PromptEncoder(other, cache=cache)(["ab"])
    assert watched.loads == ["llama", "clip"] * 2


def test_a_damaged_entry_is_encoded_again(
    files: TextFiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    watched = Watched(monkeypatch, 4)
    cache = PromptCache(tmp_path)
    PromptEncoder(files, cache=cache)(["ab"])
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(entry.read_bytes()[:-1])
    PromptEncoder(files, cache=cache)(["ab"])
    PromptEncoder(files, cache=cache)(["ab"])
    assert watched.loads == ["llama", "clip"] * 2


def test_an_embedding_that_is_not_finite_is_refused_and_not_kept(
    files: TextFiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    Watched(monkeypatch, 4, value=1e5)
    with pytest.raises(NumericsError, match="float16"):
        PromptEncoder(files, cache=PromptCache(tmp_path))(["ab"])
    assert list(tmp_path.iterdir()) == []


def test_padding_written_out():
    embeds = padded([torch.ones(2, 1), torch.ones(3, 1)], [torch.zeros(4), torch.ones(4)])
    assert embeds.text.shape == (2, 512, 1)
    assert embeds.text[:, :4, 0].tolist() == [[1, 1, 0, 0], [1, 1, 1, 0]]
    assert embeds.mask[:, :4].tolist() == [[True, True, False, False], [True, True, True, False]]
    assert embeds.pooled.shape == (2, 4)


def changed(folder: Path, change: dict[str, torch.Tensor | None]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path) | change
    save_file({k: v for k, v in tensors.items() if v is not None}, path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layers.1.mlp.up_proj.weight": None}, "missing: layers.1.mlp.up_proj.weight"),
        ({"layers.9.mlp.up_proj.weight": torch.zeros(2)}, "not expected: layers.9.mlp"),
        ({"norm.weight": torch.zeros(7)}, r"tensor norm.weight is \[7\], the model needs \[32\]"),
        ({"norm.weight": torch.zeros(32, dtype=torch.int8)}, "norm.weight is torch.int8"),
    ],
)
def test_weights_that_do_not_match_get_one_line(tmp_path: Path, change: dict, says: str):
    files = save_text_encoders(tmp_path)
    changed(files.llama, change)
    with pytest.raises(CheckpointError, match=says) as raised:
        load_llama(files.llama, files.llama_tokenizer)
    assert str(files.llama) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_files_that_are_missing_or_damaged_get_one_line(tmp_path: Path):
    files = save_text_encoders(tmp_path)
    with pytest.raises(CheckpointError, match="not a tokenizer"):
        load_llama(files.llama, tmp_path / "nowhere")
    (files.llama_tokenizer / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not a tokenizer"):
        load_llama(files.llama, files.llama_tokenizer)
    (files.clip / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"text_encoder_2/config\.json"):
        load_clip(files.clip, files.clip_tokenizer)
    (files.clip_tokenizer / "vocab.json").write_text("{")
    with pytest.raises(CheckpointError, match="not CLIP's tokenizer"):
        load_clip(files.clip, files.clip_tokenizer)


def test_a_tokenizer_of_another_model_is_noticed(files: TextFiles, tmp_path: Path):
    from tokenizers import Tokenizer, models

    whole = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    whole.save(str(tmp_path / "tokenizer.json"))
    encoder = load_llama(files.llama, tmp_path, dtype=torch.float32)
    with pytest.raises(CheckpointError, match="not LLaMA 3's tokenizer"):
        encoder(PROMPT)


def test_pictures_of_another_shape_are_refused():
    with pytest.raises(PictureError, match="uint8"):
        PictureRecipe()(np.zeros((4, 4), dtype=np.uint8))
    with pytest.raises(PictureError, match=r"\(4, 4, 4\)"):
        PictureRecipe()(np.zeros((4, 4, 4), dtype=np.uint8))


@pytest.mark.parametrize("text", ["{", "[]", '{"size": 384}', '{"image_mean": ["a"]}'])
def test_a_broken_recipe_gets_one_line(tmp_path: Path, text: str):
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
        read_recipe(tmp_path)


def test_half_precision_and_devices(tmp_path: Path):
    tiny_siglip().save_pretrained(tmp_path)
    encoder = load_siglip(tmp_path, dtype=torch.bfloat16)
    encoder._recipe = PictureRecipe(height=42, width=42)
    tokens = encoder(np.zeros((48, 32, 3), dtype=np.uint8))
    assert tokens.dtype is torch.bfloat16
    assert torch.isfinite(tokens).all()
