"""Image tokens against transformers' processor and diffusers' pipeline, with a tiny SigLIP."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.encoders.tiny_encoders import save_feature_extractor, tiny_siglip, with_outer_level

from recurvid.encoders.image import PictureRecipe, load_siglip, read_recipe

pytestmark = pytest.mark.parity


def slow_processor(folder: Path) -> Any:
    """transformers' Pillow processor, under its name before and since 5.0."""
    import transformers

    cls = getattr(transformers, "SiglipImageProcessorPil", None)
    return (cls or transformers.SiglipImageProcessor).from_pretrained(folder)


def picture(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(height)
    rough = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return np.ascontiguousarray(rough.repeat(8, 0).repeat(8, 1)[:height, :width])


@pytest.mark.parametrize("size", [42, 384])
@pytest.mark.parametrize("shape", [(640, 608), (416, 960), (30, 20), (384, 384)])
def test_preparation_equals_the_processors(tmp_path: Path, size: int, shape: tuple[int, int]):
    save_feature_extractor(tmp_path, size)
    pixels = picture(*shape)
    expected = slow_processor(tmp_path)(images=pixels, return_tensors="pt").pixel_values
    got = read_recipe(tmp_path)(pixels)
    assert got.shape == (1, 3, size, size)
    assert got.dtype is torch.float32
    assert expected.std() > 0.1
    assert torch.allclose(got, expected, rtol=0, atol=1e-6)


def test_the_built_in_recipe_is_the_released_file(tmp_path: Path):
    save_feature_extractor(tmp_path, 384)
    assert read_recipe(tmp_path) == PictureRecipe()


@pytest.mark.parametrize("shape", [(64, 96), (42, 42)])
def test_tokens_equal_the_pipelines(tmp_path: Path, shape: tuple[int, int]):
    """Everything behind the preparation; that is given the uint8 picture, as the original does.

    The pipeline gives floats to a processor that makes bytes of them again, cut instead of
    rounded: up to 0.024 apart after normalisation, for any picture. That bound is asserted too.
    """
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_framepack import (
        HunyuanVideoFramepackPipeline,
    )
    from diffusers.video_processor import VideoProcessor
    from PIL import Image

    model = tiny_siglip()
    model.save_pretrained(tmp_path / "image_encoder")
    save_feature_extractor(tmp_path / "feature_extractor")
    processor = slow_processor(tmp_path / "feature_extractor")
    pixels = picture(*shape)
    floats = VideoProcessor(vae_scale_factor=1).preprocess(Image.fromarray(pixels), *shape)
    seen: list[torch.Tensor] = []

    def extract(images: torch.Tensor, **options: Any) -> Any:
        seen.append(processor(images=images, **options).pixel_values)
        return processor(images=pixels, return_tensors="pt")

    owner: Any = SimpleNamespace(image_encoder=model, feature_extractor=extract)
    cpu = torch.device("cpu")
    with torch.no_grad():
        expected = HunyuanVideoFramepackPipeline.encode_image(owner, floats, device=cpu)
    extractor = tmp_path / "feature_extractor"
    encoder = load_siglip(tmp_path / "image_encoder", extractor, dtype=torch.float32)
    got = encoder(pixels)
    assert got.shape == (1, 9, 24)
    assert expected.std() > 0.1
    assert torch.allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert (read_recipe(extractor)(pixels) - seen[0]).abs().max() < 0.0245


@pytest.mark.parametrize("outer", ["", "vision_model."])
@pytest.mark.parametrize("head", [True, False])
def test_siglip_files_of_every_age(tmp_path: Path, outer: str, head: bool):
    from safetensors.torch import load_file, save_file

    model = tiny_siglip(seed=2)
    model.save_pretrained(tmp_path)
    with_outer_level(tmp_path, outer)
    if not head:
        path = tmp_path / "model.safetensors"
        kept = {k: v for k, v in load_file(path).items() if ".head." not in f".{k}"}
        save_file(kept, path)
    pixels = picture(42, 42)
    recipe = PictureRecipe(height=42, width=42)
    with torch.no_grad():
        expected = model(pixel_values=recipe(pixels)).last_hidden_state
    encoder = load_siglip(tmp_path, dtype=torch.float32)
    encoder._recipe = recipe
    assert torch.allclose(encoder(pixels), expected, rtol=1e-5, atol=1e-5)
