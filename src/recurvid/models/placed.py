"""PlacedDiT: the backbone on a device that cannot hold it, to the same bits."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recurvid.caching.protocol import CachedStep
from recurvid.conditioning import Conditioning
from recurvid.latents import LatentFrames
from recurvid.memory.residency import Turns, free
from recurvid.memory.sources import BlockSource, MappedSource, PinnedSource, tensors_of
from recurvid.memory.streaming import BlockStream, CopyStream, StreamedBlocks
from recurvid.models.packed_dit.model import PackedDiT, PromptState, SectionState
from recurvid.models.packed_dit.precompute import is_modulation, precompute
from recurvid.ops.attention.backend import AttentionBackend
from recurvid.ops.attention.sdpa import SDPA
from recurvid.packing.pack import PackedContext

logger = logging.getLogger(__name__)

#: Prompts whose states are kept: positive and negative of one job.
KEPT_PROMPTS = 2
#: What a section needs on the device beside the blocks.
ALWAYS = ("x_embedder", "clean_x_embedder", "proj_out")


@dataclass(frozen=True)
class Streaming:
    """How blocks reach the device.

    Attributes:
        resident: how many of them stay there.
        slots: buffers for the others on the device.
        pinned: keep the streamed ones in pinned memory; else read them from where they lie.
        ring: pinned buffers to read them through.
        threads: that read; 0 takes one a core, at most 8.
    """

    resident: int = 0
    slots: int = 2
    pinned: bool = False
    ring: int = 3
    threads: int = 0


def spread(count: int, of: int) -> tuple[int, ...]:
    """``count`` numbers below ``of``, evenly apart: copies hide behind resident neighbours."""
    return tuple(sorted({i * of // count for i in range(count)})) if count else ()


class PlacedDiT:
    """A Backbone over a PackedDiT whose weights rest on the host.

    Only the patchify layers and the output projection stay on the device; blocks are streamed
    without their modulation, which is made once for each prompt and timestep.

    Args:
        model: on the CPU, on its memory map as a rule.
        device: where it runs.
        streaming: how blocks get there.
        turns: shared with the components that need the device at other times.
        copies: by default what fits the device.
    """

    def __init__(
        self,
        model: PackedDiT,
        device: torch.device,
        streaming: Streaming,
        *,
        turns: Turns | None = None,
        copies: CopyStream | None = None,
    ):
        self.model = model
        self.device = device
        self._turns = turns or Turns(device)
        blocks = [*model.transformer_blocks.children(), *model.single_transformer_blocks.children()]
        self.stream = BlockStream(
            blocks,
            _source(blocks, device, streaming),
            device,
            resident=_resident(model, streaming.resident),
            slots=streaming.slots,
            patient=True,
            copies=copies,
        )
        doubles = len(model.transformer_blocks)
        model.transformer_blocks = StreamedBlocks(self.stream, 0, doubles)
        model.single_transformer_blocks = StreamedBlocks(self.stream, doubles)
        self._prompts: dict[int, tuple[Conditioning, dict[float, PromptState]]] = {}

    @property
    def dtype(self) -> torch.dtype:
        """Floating point type of the computation."""
        return self.model.dtype

    def prepare(
        self,
        conditioning: Conditioning,
        timesteps: Sequence[Tensor],
        attention: AttentionBackend | None = None,
    ) -> None:
        """Make what depends on prompt and timestep for all of a job's timesteps, once.

        Args:
            conditioning: on the device; recognised as the same object in later calls.
            timesteps: (b,) each, 1000 * sigma.
        """
        _, states = self._prompts.setdefault(id(conditioning), (conditioning, {}))
        for old in list(self._prompts)[:-KEPT_PROMPTS]:
            del self._prompts[old]
        new = [t for t in timesteps if float(t[0]) not in states]
        if new:
            self._arrive()
            made = precompute(self.model, conditioning, new, self.device, attention or SDPA)
            states.update(zip((float(t[0]) for t in new), made, strict=True))
            free(self.device)

    def embed_section(self, context: PackedContext, target: LatentFrames) -> SectionState:
        """What is the same in every step of a section."""
        self._arrive()
        with torch.no_grad():
            return self.model.embed_section(context, target)

    def __call__(  # noqa: PLR0913 - the signature of every backbone
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
        """Velocity; see PackedDiT.forward. A device that is fuller than planned is tried again.

        Raises:
            ComponentError: the device cannot even hold one block beside the activations.
        """
        self._arrive()
        while True:
            try:
                with torch.no_grad():
                    return self.model(
                        target,
                        timestep,
                        conditioning,
                        context,
                        attention=attention,
                        prompt=prompt or self._prompt(conditioning, timestep, attention),
                        section=section,
                        cache=cache,
                    )
            except torch.OutOfMemoryError:
                logger.warning("the device has less memory than planned; fewer blocks stay on it")
            except BaseException:
                self.stream.release()
                raise
            # Outside of the handler, which would keep the failed step's tensors alive.
            self.stream.shrink()
            free(self.device)

    def leave(self) -> None:
        """Take blocks and buffers off the device; the next call brings them back."""
        self.stream.release()

    def _arrive(self) -> None:
        self._turns.take("backbone", self._bring_outer, self.leave)

    def _bring_outer(self) -> None:
        for name in ALWAYS:
            part = getattr(self.model, name)
            if part is not None:
                part.to(self.device)

    def _prompt(
        self, conditioning: Conditioning, timestep: Tensor, attention: AttentionBackend | None
    ) -> PromptState:
        at = float(timestep[0])
        known = self._prompts.get(id(conditioning), (conditioning, {}))[1].get(at)
        # A batch of several timesteps is a call of its own, and none that a job repeats.
        if known is not None and bool((timestep == at).all()):
            return known
        return precompute(
            self.model, conditioning, [timestep], self.device, attention or SDPA
        )[0]  # fmt: skip


def _source(blocks: Sequence[nn.Module], device: torch.device, how: Streaming) -> BlockSource:
    tensors = [tensors_of(block, is_modulation) for block in blocks]
    pin = device.type == "cuda"
    threads = how.threads or min(8, os.cpu_count() or 1)
    if how.pinned:
        return PinnedSource(tensors, pin=pin, threads=threads)
    return MappedSource(tensors, ring=how.ring, pin=pin, threads=threads)


def _resident(model: PackedDiT, count: int) -> Collection[int]:
    """Which blocks stay: single-stream ones first, being half as large, so that none is wasted."""
    doubles, singles = len(model.transformer_blocks), len(model.single_transformer_blocks)
    if count <= singles:
        return [doubles + i for i in spread(count, singles)]
    rest = min(count - singles, doubles)
    return [*spread(rest, doubles), *range(doubles, doubles + singles)]
