"""HunyuanVideo's autoencoder, diffusers' ``AutoencoderKLHunyuanVideo``, behind ``Codec``."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recurvid.checkpoints.dialects import hunyuan_vae
from recurvid.checkpoints.formats import open_checkpoint
from recurvid.checkpoints.keymap import IDENTITY
from recurvid.errors import CheckpointError, NumericsError
from recurvid.latents import LatentGeometry
from recurvid.vae.codec import check_frames, decode_whole
from recurvid.vae.lean_decoder import BYTES, PLAIN_BYTES, lean_decode
from recurvid.vae.tiling import TileGrid, TileStream
from recurvid.vae.windows import decode_windows, fit_windows

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import (
        AutoencoderKLHunyuanVideo,
    )

logger = logging.getLogger(__name__)


class HunyuanCodec:
    """The VAE of the released models.

    On the CPU frames are decoded by diffusers' own decoder, to its bits; on a card by ours, to
    rounding, faster and in a third of the memory. Half precision that overflows is noticed: the
    tile is decoded again in a wider type.

    Args:
        module: the network in evaluation mode, on its device, in its dtype; it is not changed.
            Call ``module.enable_tiling()`` first for the original's tiles in space (256 px at
            stride 192).
        room: bytes that one decoder run may take beside the weights; larger pictures are decoded
            in windows, whatever the module's tiles. None decodes whole pictures, or these tiles.
    """

    def __init__(self, module: AutoencoderKLHunyuanVideo, room: int | None = None):
        self.module = module
        self.room = room
        self.geometry = LatentGeometry(
            channels=module.config["latent_channels"],
            temporal_stride=module.config["temporal_compression_ratio"],
            spatial_stride=module.config["spatial_compression_ratio"],
        )
        self.scaling_factor = float(module.config["scaling_factor"])

    def encode(self, frames: Tensor) -> Tensor:
        """Mean of the posterior, scaled: (b, 3, 4k+1, h, w) in -1..1 -> (b, 16, k+1, h/8, w/8)."""
        check_frames(frames, self.geometry)
        with torch.no_grad():
            (posterior,) = self.module.encode(self._here(frames), return_dict=False)
            return posterior.mode() * self.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """All frames of (b, 16, k+1, h, w) latents, in temporal tiles: (b, 3, 4k+1, 8h, 8w)."""
        return decode_whole(self.stream, latents)

    def stream(self, latent_frames: int, finished: Sequence[range] = ()) -> TileStream:
        """Frames as sections arrive, each tile decoded once; see ``Codec.stream``."""
        return TileStream(self.decode_tile, self.grid(latent_frames), finished)

    def grid(self, latent_frames: int) -> TileGrid:
        """The temporal tiles of a timeline, with the sizes that the network is set to."""
        step = self.geometry.temporal_stride
        length = int(self.module.tile_sample_min_num_frames)
        stride = int(self.module.tile_sample_stride_num_frames)
        return TileGrid(latent_frames, length // step + 1, stride // step, length - stride, step)

    def decode_tile(self, latents: Tensor) -> Tensor:
        """One decoder run without tiles in time: (1, 16, n, h, w) -> (1, 3, 4n-3, 8h, 8w).

        Raises:
            NumericsError: NaN or infinity, even in a wide type.
        """
        z = self._here(latents) / self.scaling_factor
        decoded = self._decoded(z)
        if bool(torch.isfinite(decoded).all()):
            return decoded
        return self._in_a_wider_type(latents)

    def _decoded(self, z: Tensor) -> Tensor:
        vae, stride = self.module, self.geometry.spatial_stride
        if self.room is not None:
            windows = fit_windows(z.shape[3], z.shape[4], self.room // self._bytes(z))
            return decode_windows(self._run, z, windows)
        limit = (vae.tile_sample_min_height // stride, vae.tile_sample_min_width // stride)
        if vae.use_tiling and (z.shape[3] > limit[0] or z.shape[4] > limit[1]):
            return vae.tiled_decode(z, return_dict=False)[0]
        return self._run(z)

    def _run(self, z: Tensor) -> Tensor:
        z = self.module.post_quant_conv(z)
        return lean_decode(self.module.decoder, z) if z.is_cuda else self.module.decoder(z)

    def _bytes(self, z: Tensor) -> int:
        """Of one latent pixel's share of a run."""
        frames = self.geometry.frames(z.shape[2]) * self.geometry.spatial_stride**2
        return frames * (BYTES if z.is_cuda else PLAIN_BYTES) * z.element_size() // 2

    def _in_a_wider_type(self, latents: Tensor) -> Tensor:
        before = self.module.dtype
        if before not in (torch.float16, torch.bfloat16):
            raise NumericsError(
                f"the autoencoder returned NaN or infinity in {_name(before)}: its weights are "
                "damaged; fetch them again"
            )
        logger.warning(
            "the autoencoder overflowed in %s: this part is decoded again in float32", _name(before)
        )
        held = [(parameter, parameter.data) for parameter in self.module.parameters()]
        try:
            for parameter, data in held:
                parameter.data = data.float()
            decoded = self._decoded(self._here(latents) / self.scaling_factor)
        finally:
            for parameter, data in held:
                parameter.data = data
        if bool(torch.isfinite(decoded).all()):
            return decoded
        raise NumericsError(
            "the autoencoder returned NaN or infinity even in float32: its weights are damaged; "
            "fetch them again"
        )

    def _here(self, tensor: Tensor) -> Tensor:
        return tensor.to(device=self.module.device, dtype=self.module.dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# The released one's, for a single file, which has no config.json beside it.
_RELEASED: dict[str, Any] = {
    "latent_channels": 16,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "scaling_factor": 0.476986,
    "spatial_compression_ratio": 8,
    "temporal_compression_ratio": 4,
}


def load_hunyuan(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    spatial_tiling: bool = False,
) -> HunyuanCodec:
    """Load the VAE from disk; nothing is fetched.

    Args:
        folder: with config.json and safetensors, as diffusers has it, or a single safetensors file
            of the released VAE in any of its dialects (see ``checkpoints.dialects``).
        dtype: the original's is float16; keep float32 on a CPU.
        spatial_tiling: tiles of 256 px as well, as the original has below 60 GB of free memory.

    Raises:
        CheckpointError: one line naming the file: missing, damaged, of another size or class.
    """
    from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import (
        AutoencoderKLHunyuanVideo,
    )

    checkpoint = open_checkpoint(folder)
    config = read_config(folder)
    try:
        with torch.device("meta"):
            module = AutoencoderKLHunyuanVideo(**config)
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise CheckpointError(f"{folder / 'config.json'}: makes no VAE ({reason})") from error
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    checkpoint = IDENTITY.apply(hunyuan_vae(checkpoint), expected)
    state: dict[str, Tensor] = {}
    for name in expected:
        state[name] = checkpoint.tensor(name).to(device=device, dtype=dtype, copy=True)
    module.load_state_dict(state, strict=True, assign=True)
    if spatial_tiling:
        module.enable_tiling()
    return HunyuanCodec(module.eval().requires_grad_(False))


def read_config(folder: Path) -> dict[str, Any]:
    """The constructor's arguments in ``config.json``, without diffusers' own entries (``_...``).

    A single file has no configuration: it is the released VAE.

    Raises:
        CheckpointError: no JSON object, or the configuration of another class.
    """
    if folder.is_file():
        return dict(_RELEASED)
    path = folder / "config.json"
    try:
        raw: Any = json.loads(path.read_text("utf-8"))
        name = raw.get("_class_name", "AutoencoderKLHunyuanVideo")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a configuration ({str(error)[:120]})") from error
    if name != "AutoencoderKLHunyuanVideo":
        raise CheckpointError(f"{path}: a {name}, not HunyuanVideo's VAE")
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in raw.items()
        if not key.startswith("_")
    }


def read_geometry(folder: Path) -> LatentGeometry:
    """Strides and channels of a VAE's folder or file, without loading it.

    Raises:
        CheckpointError: the folder's configuration is missing or another's.
    """
    config = read_config(folder)
    try:
        return LatentGeometry(
            channels=int(config.get("latent_channels", 16)),
            temporal_stride=int(config.get("temporal_compression_ratio", 4)),
            spatial_stride=int(config.get("spatial_compression_ratio", 8)),
        )
    except (ValueError, TypeError) as error:
        reason = str(error)[:120]
        raise CheckpointError(f"{folder / 'config.json'}: makes no VAE ({reason})") from None
