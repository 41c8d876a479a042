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
    match = re.fullmatch(r"k([1-9]\d{0,4})(?:h([1-9]\d{0,4})w([1-9]\d{0,4}))?", str(text), re.ASCII)
    if match is None:
        raise InputError(f"model config: context kernel {text!r} is not of the form k4 or k4h8w8")
    t, h, w = match.groups()
    try:
        return Kernel(int(t), int(h or 2 * int(t)), int(w or 2 * int(t)))
    except ValueError as error:
        raise InputError(f"model config: context kernel {text!r} must have even sides") from error


def _from_json(name: str, value: Any, default: Any) -> Any:
    """A field's value as its own type; JSON also lets "20", true for 1 and -1 through."""
    if isinstance(default, bool):
        fits, wanted = isinstance(value, bool), "true or false"
    elif isinstance(default, tuple):
        fits, wanted = isinstance(value, list | tuple), "a list"
        fits = fits and all(type(item) is type(default[0]) for item in value)
    else:
        kinds = (int, float) if isinstance(default, float) else int
        least = 0 if name.endswith("_layers") else 1
        fits = isinstance(value, kinds) and not isinstance(value, bool) and value >= least
        wanted = f"a {'number' if isinstance(default, float) else 'whole number'} from {least} on"
    if not fits:
        raise CheckpointError(f"config.json: {name} must be {wanted}, not {value!r}")
    kind: Any = type(default)
    return kind(value)


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
        for kernel in self.context_kernels:
            parse_kernel(kernel)
        axes = self.rope_axes_dim
        if any(dim < 2 or dim % 2 for dim in axes):
            raise InputError(f"model config: rope_axes_dim {axes} must be three even numbers")
        if sum(axes) != self.attention_head_dim:
            raise InputError(
                f"model config: rope_axes_dim {axes} must add up to "
                f"attention_head_dim {self.attention_head_dim}"
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
        known = {f.name: f.default for f in fields(PackedDiTConfig)}
        given = {k: v for k, v in values.items() if not k.startswith("_")}
        for key, value in ONLY.items():
            if given.pop(key, value) != value:
                raise CheckpointError(f"config.json: {key} must be {value!r}, not {values[key]!r}")
        unknown = sorted(given.keys() - known.keys())
        if unknown:
            raise CheckpointError(f"config.json: unknown field {', '.join(unknown)}")
        read = {name: _from_json(name, value, known[name]) for name, value in given.items()}
        if len(read.get("rope_axes_dim", (0, 0, 0))) != 3:
            raise CheckpointError("config.json: rope_axes_dim must be three even numbers")
        try:
            return PackedDiTConfig(**read)
        except InputError as error:
            raise CheckpointError(f"config.json: {error}") from error


PRESETS: dict[str, PackedDiTConfig] = {
    "13b": PackedDiTConfig(),
    "bundled": PackedDiTConfig(
        in_channels=48,
        out_channels=48,
        num_attention_heads=5,
        attention_head_dim=64,
        num_layers=3,
        num_single_layers=4,
        num_refiner_layers=1,
        text_embed_dim=128,
        pooled_projection_dim=128,
        guidance_embeds=False,
        has_image_proj=False,
        rope_axes_dim=(8, 28, 28),
    ),
}
