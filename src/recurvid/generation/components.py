"""Components: the parts of a model, loaded when they are first needed and freed when they are not.

The encoders come one after the other and leave before the backbone comes, so that the largest
sum ever held is backbone and autoencoder.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recurvid.conditioning import Conditioning
from recurvid.generation.fingerprint import fingerprint
from recurvid.generation.runtime import Runtime
from recurvid.latents import LatentGeometry
from recurvid.models.protocol import Backbone
from recurvid.ops.attention.backend import AttentionBackend
from recurvid.vae.codec import Codec
from recurvid.vae.hunyuan import HunyuanCodec
from recurvid.vae.preview import DRAFT_SIDE, decoded_preview, preview


@runtime_checkable
class Embeds(Protocol):
    """What a prompt becomes: text (b, l, d), mask (b, l) bool, pooled (b, p)."""

    @property
    def text(self) -> Tensor:
        """(b, l, d)."""
        ...

    @property
    def mask(self) -> Tensor:
        """(b, l) bool, True where a token is real."""
        ...

    @property
    def pooled(self) -> Tensor:
        """(b, p)."""
        ...


EncodeText = Callable[[list[str]], Embeds]
EncodePicture = Callable[[NDArray[np.uint8]], Tensor]


@dataclass(frozen=True)
class BudgetLoaders:
    """How parts come when the device cannot hold them.

    Attributes:
        text: how many layers of the large text encoder stay on the device -> as Loaders.text.
        codec_on_cpu: -> HunyuanVideo's autoencoder on the CPU.
    """

    text: Callable[[int], EncodeText]
    codec_on_cpu: Callable[[], HunyuanCodec]


@dataclass(frozen=True)
class Loaders:
    """How each part comes into memory. Every call loads anew.

    Attributes:
        text: -> texts -> embeddings, a row a text, whose bits do not depend on its company.
        picture: -> (h, w, 3) uint8 -> (1, n, e) tokens; None for a model without image tokens.
        codec: -> the autoencoder, on its device.
        backbone: -> the network, on its device.
        for_budget: for a device that is too small; None for a model that fits anywhere.
    """

    text: Callable[[], EncodeText]
    picture: Callable[[], EncodePicture] | None
    codec: Callable[[], Codec]
    backbone: Callable[[], Backbone]
    for_budget: BudgetLoaders | None = None


@dataclass(frozen=True)
class Layout:
    """How a budget lays a backbone out, for one that an earlier session has loaded.

    Attributes:
        plan: a backbone that was loaded for an equal one serves as it lies.
        join: make it this session's: its turns, its room; off the device if the encoders need that.
        held: system memory that it holds, page cache not counted, bytes.
    """

    plan: Hashable
    join: Callable[[Backbone], None]
    held: Callable[[Backbone], int]


@dataclass
class Components:
    """The parts of one model on one machine.

    Attributes:
        geometry: of the autoencoder, known before it is loaded.
        weights: component -> its files, for the fingerprint.
        dtype: of the backbone.
        guided: whether the backbone embeds a guidance scale.
        exact_attention: for the first and last steps, where the backbone's own kernel rounds.
        dense_attention: for the first steps, where the backbone's own is sparse.
        layout: under a budget, how the backbone lies.
        draft: -> a tiny decoder for previews, on its device; None looks through the codec.
    """

    loaders: Loaders
    geometry: LatentGeometry
    weights: Mapping[str, Sequence[Path]]
    runtime: Runtime
    dtype: torch.dtype
    guided: bool
    exact_attention: AttentionBackend | None = None
    dense_attention: AttentionBackend | None = None
    layout: Layout | None = None
    draft: Callable[[], Codec] | None = None

    @property
    def device(self) -> torch.device:
        """Where the backbone runs."""
        return self.runtime.device

    def fingerprint(self) -> dict[str, str]:
        """What a resume compares."""
        return fingerprint(self.weights, self.device, self.dtype) | self.runtime.numerics()

    def conditionings(
        self, prompts: list[str], picture: NDArray[np.uint8], guidance_scale: float | None
    ) -> list[Conditioning]:
        """One Conditioning a prompt, on the CPU; encoders are loaded one by one and freed.

        Args:
            picture: (height, width, 3) uint8 at the size of the video.
        """
        rows = self._encode_text(prompts)
        image = None
        if self.loaders.picture is not None:
            encoder = self.loaders.picture()
            image = encoder(picture).cpu()
            del encoder
            self._free()
        scale = 1.0 if guidance_scale is None else guidance_scale
        guidance = torch.tensor([scale], dtype=torch.float32) if self.guided else None
        return [Conditioning(*row, image=image, guidance=guidance) for row in rows]

    def encode_picture(self, picture: NDArray[np.uint8]) -> Tensor:
        """Latent of one picture (h, w, 3) uint8: (1, c, 1, h/8, w/8) float32 on the CPU."""
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        frames = pixels[None, :, None].float() / 127.5 - 1.0
        return self.codec.encode(frames).to("cpu", torch.float32)

    @cached_property
    def codec(self) -> Codec:
        """The autoencoder, loaded at first use and kept."""
        return self.loaders.codec()

    def look(self, latents: Tensor) -> Tensor:
        """A rough look at latents (1, c, t, h, w): (t, height, width, 3) uint8 on the CPU."""
        if self.draft is None:
            return preview(self.codec, latents)
        return decoded_preview(self._draft_codec, latents, DRAFT_SIDE)

    @cached_property
    def _draft_codec(self) -> Codec:
        assert self.draft is not None
        return self.draft()

    @cached_property
    def backbone(self) -> Backbone:
        """The backbone, loaded at first use and kept."""
        return self.loaders.backbone()

    def _encode_text(self, prompts: list[str]) -> list[tuple[Tensor, Tensor, Tensor]]:
        encoder = self.loaders.text()
        made = encoder(prompts)
        del encoder
        self._free()
        text, mask, pooled = made.text.cpu(), made.mask.cpu().bool(), made.pooled.cpu()
        rows = range(len(prompts))
        return [(text[i : i + 1], mask[i : i + 1], pooled[i : i + 1]) for i in rows]

    def _free(self) -> None:
        if self.loaders.picture is None:
            return  # small encoders are gone with their last name; collecting costs more
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
