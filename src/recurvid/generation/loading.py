"""Files of a model -> Components."""

from __future__ import annotations

from pathlib import Path

import torch

from recurvid.checkpoints.formats import open_checkpoint
from recurvid.checkpoints.int8 import dequantized
from recurvid.checkpoints.locate import ModelFiles
from recurvid.encoders import PromptEncoder, TextFiles
from recurvid.encoders.image import load_siglip
from recurvid.encoders.prompt_cache import PromptCache
from recurvid.encoders.small import SmallEmbeds, load_small_text_encoder
from recurvid.generation.components import BudgetLoaders, Components, EncodeText, Loaders
from recurvid.generation.runtime import Runtime, dtype_for, side_dtype
from recurvid.generation.tuned import attention_for, dense_for, exact_for, load_tuned
from recurvid.latents import LatentGeometry
from recurvid.models.loading import find_config
from recurvid.settings import settings
from recurvid.vae.hunyuan import load_hunyuan, read_geometry
from recurvid.vae.taehv_file import find_config as find_taehv_config
from recurvid.vae.taehv_file import load_taehv


def load_components(files: ModelFiles, runtime: Runtime) -> Components:
    """The parts of a model; only small configuration files are read before one is used.

    Raises:
        CheckpointError: a configuration is missing or is no JSON.
    """
    make = _small if files.spec.bundled else _released
    return make(files, runtime)


def _small(files: ModelFiles, runtime: Runtime) -> Components:
    """The layout of the bundled model: dit, vae and text, each .safetensors beside its .json."""
    dit, vae, text = files["transformer"], files["vae"], files["text_encoder"]
    dtype = dtype_for(runtime, small=True)
    config = find_taehv_config(open_checkpoint(vae))
    network = find_config(dequantized(open_checkpoint(dit)))
    attention = attention_for(runtime, network, dtype)
    return Components(
        loaders=Loaders(
            text=lambda: _small_text(text),
            picture=None,
            codec=lambda: load_taehv(vae, device=runtime.device),
            backbone=lambda: load_tuned(dit, dtype, runtime, attention),
        ),
        geometry=LatentGeometry(config.latent_channels, config.temporal_stride, 8),
        weights={
            "transformer": _with_config(dit),
            "vae": _with_config(vae),
            "text encoder": _with_config(text),
        },
        runtime=runtime,
        dtype=dtype,
        guided=False,
        exact_attention=exact_for(runtime, network, dtype),
        dense_attention=dense_for(runtime, network, dtype),
    )


def _small_text(path: Path) -> EncodeText:
    encoder = load_small_text_encoder(path)

    def encode(texts: list[str]) -> SmallEmbeds:
        rows = [encoder([text]) for text in texts]
        return SmallEmbeds(*(torch.cat(parts) for parts in zip(*rows, strict=True)))

    return encode


def _released(files: ModelFiles, runtime: Runtime) -> Components:
    """A released FramePack transformer with HunyuanVideo's encoders and autoencoder.

    Encoders and autoencoder run in float16 as in the original, where the device is good at it.
    """
    device = runtime.device
    config = find_config(dequantized(open_checkpoint(files["transformer"])))
    texts = TextFiles(
        llama=files["text_encoder"],
        llama_tokenizer=files["tokenizer"],
        clip=files["text_encoder_2"],
        clip_tokenizer=files["tokenizer_2"],
    )
    dtype = dtype_for(runtime, small=False)
    attention = attention_for(runtime, config, dtype)
    side = side_dtype(runtime)
    cache = PromptCache(settings().prompt_cache)
    return Components(
        loaders=Loaders(
            text=lambda: PromptEncoder(texts, device=device, dtype=side, cache=cache),
            picture=lambda: load_siglip(
                files["image_encoder"], files["feature_extractor"], device=device, dtype=side
            ),
            codec=lambda: load_hunyuan(
                files["vae"], device=device, dtype=side, spatial_tiling=_tile_in_space(device)
            ),
            backbone=lambda: load_tuned(files["transformer"], dtype, runtime, attention),
            for_budget=BudgetLoaders(
                text=lambda resident: PromptEncoder(
                    texts, device=device, dtype=side, cache=cache, resident=resident
                ),
                codec_on_cpu=lambda: load_hunyuan(files["vae"], dtype=side, spatial_tiling=False),
            ),
        ),
        geometry=read_geometry(files["vae"]),
        weights={role: _files_in(path) for role, path in files.paths.items()},
        runtime=runtime,
        dtype=dtype,
        guided=config.guidance_embeds,
        exact_attention=exact_for(runtime, config, dtype),
        dense_attention=dense_for(runtime, config, dtype),
    )


def _tile_in_space(device: torch.device) -> bool:
    """Whether the autoencoder decodes tiles of 256 px; whole frames at 480p peak at 22 GB."""
    if device.type != "cuda":
        return True
    return torch.cuda.get_device_properties(device).total_memory < 40e9


def _with_config(path: Path) -> list[Path]:
    return [path, path.with_suffix(".json")]


def _files_in(path: Path) -> list[Path]:
    """The files of a part that decide its numbers."""
    if not path.is_dir():
        return [path]
    kinds = (".safetensors", ".json", ".txt")
    return sorted(file for file in path.iterdir() if file.is_file() and file.suffix in kinds)
