import json
from pathlib import Path

import pytest
import torch

from recurvid.checkpoints.int8 import save_quantized
from recurvid.encoders.small import (
    SmallTextConfig,
    SmallTextEncoder,
    load_small_text_encoder,
    stem,
    to_json,
    tokenize,
)
from recurvid.errors import CheckpointError


@pytest.mark.parametrize(
    ("words", "same"),
    [("pan pans panning panned", True), ("move moves moving moved", True),
     ("slide slides sliding", True), ("zoom zooms zooming", True), ("left right", False),
     ("in out", False), ("up down", False), ("glass glas", False)],
)  # fmt: skip
def test_stems(words: str, same: bool) -> None:
    assert (len({stem(word) for word in words.split()}) == 1) is same


def test_tokens_are_fixed_numbers() -> None:
    """The hash is part of the trained model: other numbers would make it deaf."""
    config = SmallTextConfig()
    ids = tokenize("Pan LEFT!", config)
    assert len(ids) == 24
    assert ids[0] == 1
    assert ids[1:3] == [1789, 268]
    assert ids[3:] == [0] * 21


def test_long_and_empty_texts() -> None:
    model = SmallTextEncoder()
    embeds = model(["", "word " * 100])
    assert embeds.text.shape == (2, 24, 128)
    assert embeds.pooled.shape == (2, 128)
    assert bool(embeds.mask.all())
    assert bool(torch.isfinite(embeds.pooled).all())


def test_loads_what_was_saved(tmp_path: Path) -> None:
    model = SmallTextEncoder()
    save_quantized(model.state_dict(), tmp_path / "text.safetensors")
    (tmp_path / "text.json").write_text(to_json(model.config))
    loaded = load_small_text_encoder(tmp_path / "text.safetensors")
    a, b = model(["zoom in"]), loaded(["zoom in"])
    assert torch.allclose(a.text, b.text, atol=0.03)


def test_another_shape_is_one_clear_error(tmp_path: Path) -> None:
    save_quantized(SmallTextEncoder().state_dict(), tmp_path / "text.safetensors")
    (tmp_path / "text.json").write_text(json.dumps({"buckets": 100, "width": 128, "tokens": 24}))
    with pytest.raises(CheckpointError, match=r"text\.safetensors"):
        load_small_text_encoder(tmp_path / "text.safetensors")
