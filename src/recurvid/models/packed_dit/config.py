"""PackedDiTConfig: the shape of the network, and how it reads from and writes to config.json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from recurvid.errors import CheckpointError, InputError
from recurvid.packing.kernel import Kernel

# Class names that stand in the config.json of checkpoints with this architecture.
ARCHITECTURES = (
    "HunyuanVideoTransformer3DModelPacked",
    "HunyuanVideoFramepackTransformer3DModel",
    "PackedDiT",
)
# Fields of released configs that name a choice; this class implements one value of each.
ONLY: dict[str, Any] = {
    "patch_size": 2,
    "patch_size_t": 1,
    "qk_norm": "rms_norm",
    "image_condition_type": None,
}


def parse_kernel(text: str) -> Kernel:
    """Read "k4" = (4, 8, 8) or the long form "k2h4w2" = (2, 4, 2).

    Raises:
        InputError: not a kernel, or one that does not cover whole (1, 2, 2) tokens.
    """
    match = re.fullmatch(r"k([1-9]\d{0,4})(?:h([1-9]\d{0,4})w([1-9]\d{0,4}))?", text)
    if match is None:
        raise InputError(f"model config: context kernel {text!r} is not of the form k4 or k4h8w8")
    t, h, w = match.groups()
    try:
        return Kernel(int(t), int(h or 2 * int(t)), int(w or 2 * int(t)))
    except ValueError as error:
        raise InputError(f"model config: context kernel {text!r} must have even sides") from error


@dataclass(frozen=True)
class PackedDiTConfig:
    """Shape of a PackedDiT. Field names are those of the released config.json.

    Attributes:
        in_channels: latent channels.
        out_channels: channels of the velocity.
        num_attention_heads: heads of every attention.
        attention_head_dim: channels of a head; the width of the network is heads times this.
        num_layers: double-stream blocks.
        num_single_layers: single-stream blocks.
        num_refiner_layers: blocks of the text refiner.
        mlp_ratio: hidden width of a feed-forward layer over the width of the network.
        text_embed_dim: channels of the prompt embedding.
        pooled_projection_dim: channels of the pooled prompt embedding.
        guidance_embeds: whether the distilled guidance scale is an input.
        has_image_proj: whether image tokens are an input.
        image_proj_dim: channels of an image token.
        has_clean_x_embedder: whether there is a packed context.
        rope_axes_dim: channels of a head that turn with time, height, width.
        rope_theta: base of the rotary frequencies.
        context_kernels: patchify kernels of the packed context that have weights, "k4" or the
            long form "k2h4w2" (not in released configs; these have k1, k2, k4).
    """

    in_channels: int = 16
    out_channels: int = 16
    num_attention_heads: int = 24
    attention_head_dim: int = 128
    num_layers: int = 20
    num_single_layers: int = 40
    num_refiner_layers: int = 2
    mlp_ratio: float = 4.0
    text_embed_dim: int = 4096
    pooled_projection_dim: int = 768
    guidance_embeds: bool = True
    has_image_proj: bool = True
    image_proj_dim: int = 1152
    has_clean_x_embedder: bool = True
    rope_axes_dim: tuple[int, int, int] = (16, 56, 56)
    rope_theta: float = 256.0
    context_kernels: tuple[str, ...] = ("k1", "k2", "k4")

    def __post_init__(self) -> None:
        object.__setattr__(self, "rope_axes_dim", tuple(self.rope_axes_dim))
        object.__setattr__(self, "context_kernels", tuple(self.context_kernels))
        for kernel in self.context_kernels:
            parse_kernel(kernel)
        if sum(self.rope_axes_dim) != self.attention_head_dim:
            raise InputError(
                f"model config: rope_axes_dim {self.rope_axes_dim} must add up to "
                f"attention_head_dim {self.attention_head_dim}"
            )
        if len(self.rope_axes_dim) != 3 or any(dim % 2 for dim in self.rope_axes_dim):
            raise InputError(
                f"model config: rope_axes_dim {self.rope_axes_dim} must be three even numbers"
            )

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def mlp_width(self) -> int:
        """Hidden channels of a feed-forward layer."""
        return int(self.width * self.mlp_ratio)

    def to_dict(self) -> dict[str, Any]:
        """As JSON, readable by whoever reads a released config.json."""
        return {"_class_name": "PackedDiT", **ONLY, **asdict(self)}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> PackedDiTConfig:
        """Read a config.json, ours or a released one.

        Raises:
            CheckpointError: another architecture, a choice that is not implemented, or an unknown
                field.
        """
        name = values.get("_class_name", "PackedDiT")
        if name not in ARCHITECTURES:
            raise CheckpointError(
                f"config.json describes {name!r}, not a FramePack transformer "
                f"({', '.join(ARCHITECTURES)})"
            )
        known = {f.name for f in fields(PackedDiTConfig)}
        given = {k: v for k, v in values.items() if not k.startswith("_")}
        for key, value in ONLY.items():
            if given.pop(key, value) != value:
                raise CheckpointError(f"config.json: {key} must be {value!r}, not {values[key]!r}")
        unknown = sorted(set(given) - known)
        if unknown:
            raise CheckpointError(f"config.json: unknown field {', '.join(unknown)}")
        return PackedDiTConfig(**given)


PRESETS: dict[str, PackedDiTConfig] = {
    "13b": PackedDiTConfig(),
    "bundled": PackedDiTConfig(
        in_channels=32,
        out_channels=32,
        num_attention_heads=5,
        attention_head_dim=64,
        num_layers=3,
        num_single_layers=6,
        num_refiner_layers=1,
        text_embed_dim=128,
        pooled_projection_dim=128,
        guidance_embeds=False,
        has_image_proj=False,
        rope_axes_dim=(8, 28, 28),
    ),
}
