"""Files of a model -> Components."""

from __future__ import annotations

from recurvid.checkpoints.formats import open_checkpoint
from recurvid.checkpoints.locate import ModelFiles
from recurvid.generation.components import Components, Loaders
from recurvid.generation.runtime import Runtime, dtype_for
from recurvid.latents import LatentGeometry
from recurvid.models.loading import load_backbone


def load_components(files: ModelFiles, runtime: Runtime) -> Components:
    """The parts of a model; only small configuration files are read before one is used.

    Raises:
        CheckpointError: a configuration is missing or is no JSON.
    """
    make = _small if files.spec.bundled else _released
    return make(files, runtime)


def _small(files: ModelFiles, runtime: Runtime) -> Components:
    """The layout of the bundled model: dit, vae and text, each .safetensors beside its .json."""
    from recurvid.encoders.small import load_small_text_encoder
    from recurvid.vae.taehv_file import find_config, load_taehv

    dit, vae, text = files["transformer"], files["vae"], files["text_encoder"]
    dtype = dtype_for(runtime, small=True)
    config = find_config(open_checkpoint(vae))
    return Components(
        loaders=Loaders(
            text=lambda: load_small_text_encoder(text),
            picture=None,
            codec=lambda: load_taehv(vae, device=runtime.device),
            backbone=lambda: load_backbone(dit, dtype=dtype, device=runtime.device),
        ),
        geometry=LatentGeometry(config.latent_channels, config.temporal_stride, 8),
        weights={"transformer": [dit], "vae": [vae], "text encoder": [text]},
        runtime=runtime,
        dtype=dtype,
        guided=False,
    )


def _released(files: ModelFiles, runtime: Runtime) -> Components:
    """A released FramePack transformer with HunyuanVideo's encoders and autoencoder."""
    raise NotImplementedError
