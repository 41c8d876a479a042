"""SigLIP: a picture -> image tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recurvid.checkpoints.dialects import SIGLIP_VISION
from recurvid.encoders.weights import fill, open_flat, read_config
from recurvid.errors import CheckpointError, PictureError

# What a single weights file does not say: SigLIP so400m-patch14-384, picture side.
_SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}


@dataclass(frozen=True)
class PictureRecipe:
    """How a picture is prepared: stretched to a square, scaled to 0..1, normalised.

    Attributes:
        height, width: pixels.
        resample: Pillow's number of the filter (3 is bicubic).
        mean, std: per channel, of values in 0..1.
    """

    height: int = 384
    width: int = 384
    resample: int = 3
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __call__(self, picture: NDArray[np.uint8]) -> Tensor:
        """(h, w, 3) uint8 -> (1, 3, height, width) float32, as SiglipImageProcessor gives it."""
        from PIL import Image

        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise PictureError(
                f"a picture is (height, width, 3) uint8, not {picture.shape} {picture.dtype}"
            )
        image = Image.fromarray(picture)
        stretched = image.resize((self.width, self.height), Image.Resampling(self.resample))
        levels = torch.from_numpy(np.array(stretched)).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (self.mean, self.std))
        return ((levels - mean) / std).unsqueeze(0)


class ImageEncoder:
    """Picture -> one vector a patch."""

    def __init__(self, model: Any, recipe: PictureRecipe):
        self._model = model
        self._recipe = recipe

    def __call__(self, picture: NDArray[np.uint8]) -> Tensor:
        """(h, w, 3) uint8 at the size of the video -> (1, n, e) on the CPU (729 x 1152)."""
        pixels = self._recipe(picture).to(device=self._model.device, dtype=self._model.dtype)
        with torch.no_grad():
            return self._model(pixel_values=pixels).last_hidden_state.cpu()


def load_siglip(
    weights: Path,
    feature_extractor: Path | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float16,
) -> ImageEncoder:
    """SigLIP's picture side from a folder or a single file.

    Args:
        feature_extractor: folder with ``preprocessor_config.json``; by default the released one's
            values.

    Raises:
        CheckpointError: one line naming the file that is missing, damaged or another's.
    """
    from transformers import SiglipVisionConfig, SiglipVisionModel

    recipe = PictureRecipe() if feature_extractor is None else read_recipe(feature_extractor)
    checkpoint = open_flat(weights, SIGLIP_VISION)
    config = read_config(SiglipVisionConfig, weights, _SO400M)
    # The pooling head is not used here, and some files leave it out.
    config.vision_use_head = any(name.startswith("head.") for name in checkpoint.keys())  # noqa: SIM118
    model = fill(SiglipVisionModel, config, checkpoint, device=device, dtype=dtype)
    return ImageEncoder(model, recipe)


def read_recipe(folder: Path) -> PictureRecipe:
    """The preparation that ``preprocessor_config.json`` asks for."""
    path = folder / "preprocessor_config.json" if folder.is_dir() else folder
    try:
        raw: Any = json.loads(path.read_text("utf-8"))
        size = raw.get("size", {"height": 384, "width": 384})
        return PictureRecipe(
            height=int(size["height"]),
            width=int(size["width"]),
            resample=int(raw.get("resample", 3)),
            mean=tuple(float(v) for v in raw.get("image_mean", (0.5, 0.5, 0.5))),
            std=tuple(float(v) for v in raw.get("image_std", (0.5, 0.5, 0.5))),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not SigLIP's preprocessor_config.json ({error})") from error
