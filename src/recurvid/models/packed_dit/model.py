"""PackedDiT: predicts the velocity of one section's latents from a packed context.

One forward pass has three parts, and what does not change from step to step can be made once and
handed in again:

    prompt    timestep, guidance, prompt, picture -> text tokens and modulation    per timestep
    section   packed context and frame indices -> context tokens and RoPE          per section
    blocks    the latents' way through the network                                 per step
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recurvid.caching.protocol import CachedStep
from recurvid.conditioning import Conditioning
from recurvid.errors import InputError
from recurvid.latents import LatentFrames
from recurvid.models.packed_dit.blocks import BlockInputs, DoubleBlock, Modulation, SingleBlock
from recurvid.models.packed_dit.config import PackedDiTConfig, parse_kernel
from recurvid.models.packed_dit.embedders import (
    ImageProjection,
    PatchEmbedder,
    ScalarAndTextEmbedder,
    TextEmbedder,
)
from recurvid.models.packed_dit.history import HistoryEmbedder, init_from_patchify
from recurvid.models.packed_dit.in_pieces import Pieces, side_by_side
from recurvid.ops.attention.backend import AttentionBackend, TokenLayout
from recurvid.ops.attention.sdpa import SDPA
from recurvid.ops.modulation import modulate, stream_type
from recurvid.ops.rope import RopeTable, rope_table
from recurvid.packing.kernel import Kernel
from recurvid.packing.pack import PackedContext
from recurvid.packing.schedule import TARGET_KERNEL

PATCH = 2  # latents to a token, in height and in width


@dataclass(frozen=True)
class Vectors:
    """Modulation of every block and of the output, made from one temb.

    Attributes:
        double: image and text (b, 6, d) of each double-stream block.
        single: (b, 3, d) of each single-stream block.
        out: (b, 2, d), scale then shift.
    """

    double: tuple[tuple[Tensor, Tensor], ...]
    single: tuple[Tensor, ...]
    out: Tensor


@dataclass(frozen=True)
class PromptState:
    """What depends on prompt, picture, guidance and timestep only.

    Attributes:
        text: (b, l, d) image tokens, then refined prompt tokens.
        mask: (b, l) bool, True where a token is real; None where all are.
        temb: (b, d).
        vectors: modulation made from temb, or None to make it inside the blocks.
    """

    text: Tensor
    mask: Tensor | None
    temb: Tensor
    vectors: Vectors | None = None


@dataclass(frozen=True)
class SectionState:
    """What is the same in every step of a section.

    Attributes:
        tokens: (b, n, d) tokens of the packed context, or None where it is empty.
        rope: phases of the context's tokens and then of the target's.
        grid: frames, rows and columns of the tokens at full resolution: those of the context
            that stand right before the target, and the target.
    """

    tokens: Tensor | None
    rope: RopeTable
    grid: tuple[int, int, int]


class PackedDiT(nn.Module):
    """The backbone. Parameter names are those of the released checkpoints."""

    def __init__(self, config: PackedDiTConfig):
        super().__init__()
        self.config = config
        self.attention: AttentionBackend = SDPA  # where a call names none
        self.pieces: Pieces | None = None  # blocks work on all tokens at once
        width, heads, head_dim = config.width, config.num_attention_heads, config.attention_head_dim
        self.x_embedder = PatchEmbedder(config.in_channels, width)
        self.clean_x_embedder = (
            HistoryEmbedder(config.in_channels, width, map(parse_kernel, config.context_kernels))
            if config.has_clean_x_embedder
            else None
        )
        self.context_embedder = TextEmbedder(
            config.text_embed_dim, heads, head_dim, config.num_refiner_layers
        )
        self.image_projection = (
            ImageProjection(config.image_proj_dim, width) if config.has_image_proj else None
        )
        self.time_text_embed = ScalarAndTextEmbedder(
            width, config.pooled_projection_dim, guidance=config.guidance_embeds
        )
        self.transformer_blocks = nn.ModuleList(
            DoubleBlock(heads, head_dim, config.mlp_width) for _ in range(config.num_layers)
        )
        self.single_transformer_blocks = nn.ModuleList(
            SingleBlock(heads, head_dim, config.mlp_width) for _ in range(config.num_single_layers)
        )
        self.norm_out = Modulation(width, 2)
        self.proj_out = nn.Linear(width, PATCH * PATCH * config.out_channels)

    @property
    def dtype(self) -> torch.dtype:
        """Floating point type of the computation."""
        return self.x_embedder.proj.weight.dtype

    def forward(  # noqa: PLR0913 - four inputs, and what may be handed in beside them
        self,
        target: LatentFrames,
        timestep: Tensor,
        conditioning: Conditioning,
        context: PackedContext,
        *,
        attention: AttentionBackend | None = None,
        prompt: PromptState | None = None,
        section: SectionState | None = None,
        cache: CachedStep | None = None,
    ) -> Tensor:
        """Velocity (noise - data) of the target.

        Args:
            target: noisy latents (b, c, t, h, w) with their RoPE frame index (b, t).
            timestep: (b,), 1000 * sigma. Used as given: round it to bf16 before for the
                original's numbers; the same holds for ``conditioning.guidance``.
            conditioning: prompt, picture, guidance.
            context: packed history and anchors, coarsest kernel first.
            attention: kernel; by default the model's ``attention``, which is torch's own at first.
            prompt: made before by ``embed_prompt``; timestep and conditioning are then not read.
            section: made before by ``embed_section``; context and index are then not read.
            cache: decides whether the blocks run in this step; None runs them.

        Returns:
            (b, c, t, h, w), float32. The last projection runs in fp32 whatever the model's dtype.

        Raises:
            InputError: odd latent size, empty prompt, or an input that the config does not have.
        """
        attention = attention or self.attention
        prompt = prompt or self.embed_prompt(conditioning, timestep, attention)
        section = section or self.embed_section(context, target)
        if cache is None:  # no name for the tokens here: the first block's successors need room
            image = self.run_blocks(self._tokens(target, section), prompt, section, attention)
        else:
            tokens = self._tokens(target, section)
            image = cache.run(
                tokens,
                lambda: self._first_input(tokens, prompt),
                lambda: self.each_block(tokens, prompt, section, attention),
            )
        noisy = target.data[0, 0].numel() // PATCH**2
        return self._project_out(image[:, -noisy:], prompt, target.data.shape)

    def embed_prompt(
        self, conditioning: Conditioning, timestep: Tensor, attention: AttentionBackend = SDPA
    ) -> PromptState:
        """Text tokens and the modulation's source, for one timestep.

        Prompts are cut to the longest of the batch; a mask is made only where lengths differ.
        """
        self._check_conditioning(conditioning)
        length, mask = _real_tokens(conditioning.text_mask)
        text = conditioning.text[:, :length].to(self.dtype)
        guidance = None if conditioning.guidance is None else conditioning.guidance * 1000
        temb = self.time_text_embed(timestep, conditioning.pooled.to(self.dtype), guidance)
        text = self.context_embedder(text, timestep, mask, attention)
        if self.image_projection is not None and conditioning.image is not None:
            image = self.image_projection(conditioning.image.to(self.dtype))
            text = torch.cat([image, text], dim=1)
            if mask is not None:
                mask = F.pad(mask, (image.shape[1], 0), value=True)
        return PromptState(text, mask, temb)

    def with_vectors(self, prompt: PromptState) -> PromptState:
        """The same with the modulation of all blocks made, so that its weights can be let go."""
        double_blocks = cast(Iterable[DoubleBlock], self.transformer_blocks)
        single_blocks = cast(Iterable[SingleBlock], self.single_transformer_blocks)
        double = tuple(block.vectors(prompt.temb) for block in double_blocks)
        single = tuple(block.vectors(prompt.temb) for block in single_blocks)
        return replace(prompt, vectors=Vectors(double, single, self.norm_out(prompt.temb)))

    def embed_section(self, context: PackedContext, target: LatentFrames) -> SectionState:
        """Context tokens, and RoPE phases of context and target.

        Only the shape and index of ``target`` count, not its values.
        """
        self._check_size("target", target.data)
        tokens: list[Tensor] = []
        tables: list[RopeTable] = []
        for group in context.groups:
            if self.clean_x_embedder is None:
                raise InputError("context: this model takes none (has_clean_x_embedder is false)")
            self._check_size(f"context group {group.kernel}", group.frames.data)
            tokens.append(self.clean_x_embedder(group.frames.data.to(self.dtype), group.kernel))
            tables.append(self._rope(group.frames, group.kernel))
        tables.append(self._rope(target, TARGET_KERNEL))
        return SectionState(
            torch.cat(tokens, dim=1) if tokens else None,
            RopeTable.joined(tables),
            _fine_grid(context, target),
        )

    def run_blocks(
        self,
        image: Tensor,
        prompt: PromptState,
        section: SectionState,
        attention: AttentionBackend = SDPA,
    ) -> Tensor:
        """Video tokens (b, n, d), context first, through all blocks; the same shape."""
        running = self.each_block(image, prompt, section, attention)
        del image  # nothing is held longer than the next block needs it
        image = next(running)
        for image in running:  # noqa: B007 - the last one is the result
            pass
        return image

    def each_block(
        self,
        image: Tensor,
        prompt: PromptState,
        section: SectionState,
        attention: AttentionBackend = SDPA,
    ) -> Generator[Tensor, None, None]:
        """Video tokens (b, n, d) after each block, which runs when it is asked for.

        Where there is no block, the tokens themselves.
        """
        text, vectors = prompt.text.to(stream_type(prompt.text.dtype)), prompt.vectors
        n, mask = image.shape[1], prompt.mask
        layout = TokenLayout(n - math.prod(section.grid), section.grid, text.shape[1])
        shared = BlockInputs(
            rope=section.rope.with_still_tokens(text.shape[1]),
            mask=None if mask is None else F.pad(mask, (n, 0), value=True),
            attention=attention,
            temb=prompt.temb,
            pieces=self.pieces,
        )
        double, device = len(self.transformer_blocks), image.device
        count = double + len(self.single_transformer_blocks)

        if not count:
            yield image
            return
        if self.pieces is not None:
            image, text = side_by_side(image, text)

        def shared_by(number: int) -> BlockInputs:
            kernel = attention.over(layout, device, (number + 1) / count)
            return replace(shared, attention=kernel)

        for i, block in enumerate(self.transformer_blocks):
            told = vectors.double[i] if vectors else None
            image, text = block(image, text, shared_by(i), told)
            if i + 1 < double:
                yield image
        x = torch.cat([image, text], dim=1)
        # Whoever holds what the last of these gave holds what the next one takes, and no more.
        del image, text
        if double:
            yield x[:, :n]
        for i, block in enumerate(self.single_transformer_blocks):
            x = block(x, shared_by(double + i), vectors.single[i] if vectors else None)
            yield x[:, :n]

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise for training from scratch.

        Modulation and output start at zero (every block is the identity), linears and the
        patchify convolution with Xavier's rule, coarser patchify layers from the finest.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv3d):
                nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
                module.reset_parameters()
        if self.clean_x_embedder is not None:
            for layer in self.clean_x_embedder.children():
                assert isinstance(layer, nn.Conv3d)
                init_from_patchify(layer, self.x_embedder.proj)
        modulations = [m.linear for m in self.modules() if isinstance(m, Modulation)]
        for layer in [*modulations, self.proj_out]:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def _tokens(self, target: LatentFrames, section: SectionState) -> Tensor:
        """Video tokens (b, n, d) before the blocks, context first."""
        tokens = self.x_embedder(target.data.to(self.dtype))
        if section.tokens is not None:
            history = section.tokens.expand(tokens.shape[0], -1, -1)
            tokens = torch.cat([history, tokens], dim=1)
        return tokens.to(stream_type(tokens.dtype))

    def _first_input(self, image: Tensor, prompt: PromptState) -> Tensor:
        """Video tokens (b, n, d) as the first block sees them, normalised and modulated."""
        if len(self.transformer_blocks):
            if prompt.vectors is not None:
                vectors = prompt.vectors.double[0][0]
            else:
                vectors = cast(DoubleBlock, self.transformer_blocks[0]).vectors(prompt.temb)[0]
        elif prompt.vectors is not None:
            vectors = prompt.vectors.single[0]
        else:
            vectors = cast(SingleBlock, self.single_transformer_blocks[0]).vectors(prompt.temb)
        shift, scale = vectors[:, 0], vectors[:, 1]
        return modulate(image, shift, scale)

    def _rope(self, frames: LatentFrames, kernel: Kernel) -> RopeTable:
        """Phases of a group of latent frames seen through a patchify kernel."""
        height, width = frames.data.shape[-2:]
        return rope_table(
            frames.index.to(frames.data.device),
            (height // PATCH, width // PATCH),
            self.config.rope_axes_dim,
            self.config.rope_theta,
            (kernel.t, kernel.h // PATCH, kernel.w // PATCH),
        )

    def _project_out(self, x: Tensor, prompt: PromptState, shape: torch.Size) -> Tensor:
        """Target tokens (b, n, d) to a velocity of the latents' shape, in fp32."""
        vectors = prompt.vectors.out if prompt.vectors else self.norm_out(prompt.temb)
        scale, shift = vectors.unbind(1)
        x = modulate(x, shift, scale)
        with torch.autocast(x.device.type, enabled=False):
            y = F.linear(x.float(), self.proj_out.weight.float(), self.proj_out.bias.float())
        b, _, t, h, w = shape
        y = y.view(b, t, h // PATCH, w // PATCH, self.config.out_channels, PATCH, PATCH)
        return y.permute(0, 4, 1, 2, 5, 3, 6).reshape(b, self.config.out_channels, t, h, w)

    def _check_conditioning(self, conditioning: Conditioning) -> None:
        if self.config.guidance_embeds and conditioning.guidance is None:
            raise InputError(
                "guidance: this model needs a distilled guidance scale, none was given"
            )
        if self.image_projection is None and conditioning.image is not None:
            raise InputError("image tokens: this model takes none (has_image_proj is false)")

    @staticmethod
    def _check_size(name: str, latents: Tensor) -> None:
        height, width = latents.shape[-2:]
        if height % PATCH or width % PATCH:
            raise InputError(
                f"{name}: latent height and width must be even, not {height}x{width}; "
                f"use a picture size that is a multiple of 16 pixels"
            )


def _fine_grid(context: PackedContext, target: LatentFrames) -> tuple[int, int, int]:
    """``SectionState.grid``; a context's finest group stands last."""
    frames, height, width = target.data.shape[-3:]
    last = context.groups[-1] if context.groups else None
    if last and last.kernel == TARGET_KERNEL and last.frames.data.shape[-2:] == (height, width):
        frames += last.frames.frames
    return frames, height // PATCH, width // PATCH


def _real_tokens(text_mask: Tensor) -> tuple[int, Tensor | None]:
    """Tokens to keep of a batch of padded prompts, and a mask (b, length) if some are padding."""
    real = text_mask.bool()
    position = torch.arange(1, real.shape[1] + 1, device=real.device)
    counts, ends = torch.stack([real.sum(dim=1), (real * position).amax(dim=1)]).tolist()
    if min(counts) == 0:
        raise InputError(
            "prompt: text_mask marks no token of a sample; even an empty prompt has one"
        )
    length = max(ends)
    return length, None if min(counts) == length else real[:, :length]
