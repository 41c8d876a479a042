"""Encoders as single files, the way ComfyUI's users have them; their shape is built in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.encoders.tiny_encoders import (
    PROMPT,
    save_text_encoders,
    tiny_clip,
    tiny_llama,
    tiny_siglip,
    with_outer_level,
)

from recurvid.encoders import image, text
from recurvid.encoders.image import PictureRecipe, load_siglip
from recurvid.encoders.text import load_clip, load_llama
from recurvid.errors import CheckpointError


def single(folder: Path, outer: str, name: str, extra: dict[str, torch.Tensor]) -> Path:
    """The folder's weights as one file in another place, without a configuration."""
    with_outer_level(folder, outer)
    path = folder.parent / "files" / name
    path.parent.mkdir(exist_ok=True)
    save_file(load_file(folder / "model.safetensors") | extra, path)
    return path


def built_in(model: Any) -> dict[str, Any]:
    """A configuration as it stands in our code: older transformers add private choices to it."""
    return {k: v for k, v in model.config.to_dict().items() if not k.startswith("_")}


def test_comfys_llama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files = save_text_encoders(tmp_path, seed=5)
    monkeypatch.setattr(text, "_LLAMA_3_8B", built_in(tiny_llama()))
    expected = load_llama(files.llama, files.llama_tokenizer, dtype=torch.float32)(PROMPT)
    extra = {"lm_head.weight": torch.zeros(200, 32)}
    extra["tokenizer_json"] = torch.zeros(9, dtype=torch.uint8)
    path = single(files.llama, "model.", "llava_llama3_fp16.safetensors", extra)
    got = load_llama(path, files.llama_tokenizer, dtype=torch.float32)(PROMPT)
    assert torch.equal(got, expected)


def in_fp8(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Matrices as ComfyUI scales them to fp8, one factor each."""
    made = {"scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn)}
    for name, value in state.items():
        if value.ndim == 2 and "embed" not in name:
            factor = value.abs().amax().float() / 448
            made[name] = (value.float() / factor).to(torch.float8_e4m3fn)
            made[name.removesuffix(".weight") + ".scale_weight"] = factor
            made[name.removesuffix(".weight") + ".scale_input"] = torch.ones(())
        else:
            made[name] = value
    return made


def test_comfys_llama_in_scaled_fp8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files = save_text_encoders(tmp_path, seed=5)
    monkeypatch.setattr(text, "_LLAMA_3_8B", built_in(tiny_llama()))
    whole = load_llama(files.llama, files.llama_tokenizer, dtype=torch.float32)(PROMPT)
    path = single(files.llama, "model.", "llava_llama3_fp16.safetensors", {})
    state = in_fp8(load_file(path))
    scaled = path.with_name("llava_llama3_fp8_scaled.safetensors")
    save_file(state, scaled)
    factors = {n.removesuffix(".scale_weight") for n in state if n.endswith(".scale_weight")}
    assert len(factors) == 7 * tiny_llama().config.num_hidden_layers
    plain = {n: v for n, v in state.items() if "scale" not in n}
    for name in factors:
        value = state[f"{name}.weight"].float() * state[f"{name}.scale_weight"]
        plain[f"{name}.weight"] = value.half()
    save_file(plain, path)
    expected = load_llama(path, files.llama_tokenizer, dtype=torch.float32)(PROMPT)
    got = load_llama(scaled, files.llama_tokenizer, dtype=torch.float32)(PROMPT)
    assert torch.equal(got, expected)
    error = (got - whole).norm() / whole.norm()
    assert 1e-4 < error < 0.1  # fp8 keeps three bits; without the factors nothing would be right


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"a.scale_weight": torch.ones(())}, "belongs to no weight"),
        (
            {"a.scale_weight": torch.ones(()), "a.weight": torch.ones(2, 2)},
            "not the one factor",
        ),
        (
            {
                "a.scale_weight": torch.ones(2),
                "a.weight": torch.ones(2, 2).to(torch.float8_e4m3fn),
            },
            "not the one factor",
        ),
    ],
)
def test_factors_that_fit_nothing(tmp_path: Path, extra: dict[str, torch.Tensor], says: str):
    files = save_text_encoders(tmp_path)
    path = single(files.llama, "model.", "llama.safetensors", extra)
    with pytest.raises(CheckpointError, match=says) as raised:
        load_llama(path, files.llama_tokenizer)
    assert f"{path}: tensor a.scale_weight" in str(raised.value)


def test_comfys_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files = save_text_encoders(tmp_path, seed=5)
    monkeypatch.setattr(text, "_CLIP_L", built_in(tiny_clip()))
    expected = load_clip(files.clip, files.clip_tokenizer, dtype=torch.float32)(PROMPT)
    extra = {
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "text_projection.weight": torch.eye(24),
        "logit_scale": torch.zeros(()),
    }
    path = single(files.clip, "text_model.", "clip_l.safetensors", extra)
    got = load_clip(path, files.clip_tokenizer, dtype=torch.float32)(PROMPT)
    assert torch.equal(got, expected)


def test_comfys_siglip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tiny_siglip(seed=5).save_pretrained(tmp_path / "image_encoder")
    monkeypatch.setattr(image, "_SO400M", built_in(tiny_siglip()))
    monkeypatch.setattr(image, "PictureRecipe", lambda: PictureRecipe(height=42, width=42))
    pixels = np.arange(48 * 32 * 3, dtype=np.uint8).reshape(48, 32, 3)
    expected = load_siglip(tmp_path / "image_encoder", dtype=torch.float32)(pixels)
    path = single(tmp_path / "image_encoder", "vision_model.", "sigclip.safetensors", {})
    assert torch.equal(load_siglip(path, dtype=torch.float32)(pixels), expected)


def test_a_file_of_another_size_gets_one_line(tmp_path: Path):
    files = save_text_encoders(tmp_path)
    path = single(files.clip, "text_model.", "clip_l.safetensors", {})
    with pytest.raises(CheckpointError, match="do not match the model") as raised:
        load_clip(path, files.clip_tokenizer)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        # LLaMA 3 8B's 8,030,261,248 without its head (128,256 x 4,096), and 64 tokens more. The
        # published fp16 files have twice these bytes: 15.0 GB, 246 MB, 857 MB.
        ("llama", 8_030_261_248 - 128_256 * 4_096 + 64 * 4_096),
        ("clip", 123_060_480),
        ("siglip", 428_225_600),
    ],
)
def test_the_built_in_shapes_are_the_released_models(kind: str, parameters: int):
    import transformers as hf

    classes: dict[str, Any] = {
        "llama": (hf.LlamaModel, hf.LlamaConfig, text._LLAMA_3_8B),
        "clip": (hf.CLIPTextModel, hf.CLIPTextConfig, text._CLIP_L),
        "siglip": (hf.SiglipVisionModel, hf.SiglipVisionConfig, image._SO400M),
    }
    model, config, values = classes[kind]
    with torch.device("meta"):
        built = model(config(**values))
    assert sum(p.numel() for p in built.parameters()) == parameters
