"""PlacedDiT: the backbone on a device that cannot hold it, to the same bits."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from recurvid.caching.protocol import CachedStep
from recurvid.conditioning import Conditioning
from recurvid.latents import LatentFrames
from recurvid.memory.block_stream import BlockStream
from recurvid.memory.budget import PhaseNeed, PhasePlan, place_phase
from recurvid.memory.copies import CopyStream
from recurvid.memory.layout import tensors_of
from recurvid.memory.residency import Turns, free, is_out_of_memory
from recurvid.memory.sources import BlockSource, MappedSource, PinnedSource
from recurvid.memory.staying import staying
from recurvid.memory.streaming import StreamedBlocks
from recurvid.models.packed_dit.model import PackedDiT, PromptState, SectionState
from recurvid.models.packed_dit.precompute import is_modulation, precompute
from recurvid.ops.attention.backend import AttentionBackend
from recurvid.packing.pack import PackedContext

logger = logging.getLogger(__name__)

Made = TypeVar("Made")

#: Prompts whose states are kept: positive and negative of one job.
KEPT_PROMPTS = 2
#: Left free by a plan that is made in mid-run: who took memory may take a little more.
SPARED = 128 * 2**20
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


@dataclass(frozen=True)
class Room:
    """What a new plan is made from when the device turns out to be fuller, or free again.

    Attributes:
        need: of a step.
        left: bytes that a step may take at this moment, with what the backbone holds given back.
    """

    need: PhaseNeed
    left: Callable[[], int]

    def plan(self) -> PhasePlan:
        """For what is left now, less what another program may take next."""
        return place_phase(self.need, max(0, self.left() - SPARED))


class PlacedDiT:
    """A Backbone over a PackedDiT whose weights rest on the host.

    Only the patchify layers, the output projection and as many blocks as there is room for stay on
    the device, the others are streamed; all without their modulation, which is made once for each
    prompt and timestep.

    Args:
        model: on the CPU, on its memory map as a rule.
        device: where it runs.
        streaming: how blocks get there.
        turns: shared with the components that need the device at other times.
        copies: by default what fits the device.
        room: for plans in mid-run; without it blocks are given up by halves.
    """

    def __init__(
        self,
        model: PackedDiT,
        device: torch.device,
        streaming: Streaming,
        *,
        turns: Turns | None = None,
        copies: CopyStream | None = None,
        room: Room | None = None,
    ):
        self.model = model
        self.device = device
        self._turns = turns or Turns(device)
        self._room = room
        self._planned = streaming
        blocks = [*model.transformer_blocks.children(), *model.single_transformer_blocks.children()]
        source, arrivals = _sources(blocks, device, streaming)
        self.stream = BlockStream(
            blocks,
            source,
            device,
            resident=_resident(source, streaming.resident),
            slots=streaming.slots,
            patient=True,
            copies=copies,
            arrivals=arrivals,
        )
        doubles = len(model.transformer_blocks)
        model.transformer_blocks = StreamedBlocks(self.stream, 0, doubles)
        model.single_transformer_blocks = StreamedBlocks(self.stream, doubles)
        self._prompts: dict[int, _Told] = {}

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
        told = self._prompts.setdefault(id(conditioning), _Told(conditioning))
        for old in list(self._prompts)[:-KEPT_PROMPTS]:
            del self._prompts[old]
        new = [t for t in timesteps if float(t[0]) not in told.states]
        if new:
            told.add(new, self._with_room(lambda: self._precompute(conditioning, new, attention)))
            free(self.device)

    def embed_section(self, context: PackedContext, target: LatentFrames) -> SectionState:
        """What is the same in every step of a section."""
        self._regain()

        def embed() -> SectionState:
            with torch.no_grad():
                return self.model.embed_section(context, target)

        return self._with_room(embed)

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
        """Velocity; see PackedDiT.forward. On a device that is fuller than planned, once more.

        Raises:
            ComponentError: the device cannot even hold one block beside the activations.
        """

        def step() -> Tensor:
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

        return self._with_room(step)

    @property
    def held(self) -> int:
        """Bytes of system memory that blocks take which do not lie in a file."""
        source = self.stream.source
        return source.buffer_bytes if isinstance(source, PinnedSource) else 0

    def join(self, turns: Turns, room: Room | None, *, stays: bool) -> None:
        """Serve another job, with the turns and the room of its plan.

        Args:
            stays: on the device; else it comes back when it is called.
        """
        self._prompts.clear()
        self._turns, self._room = turns, room
        if stays:
            turns.take("backbone", self._bring_outer, self.leave)
            return
        self.leave()
        for part in (getattr(self.model, name) for name in ALWAYS):
            if part is not None:
                part.to("cpu")
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

    def _with_room(self, work: Callable[[], Made]) -> Made:
        """Do some work in this one's turn, again with less on the device if that is full."""
        while True:
            try:
                self._arrive()
                return work()
            except BaseException as error:
                if not is_out_of_memory(error):
                    self.stream.release()
                    raise
            # Outside of the handler, which would keep the failed work's tensors alive.
            self._give_way()

    def _give_way(self) -> None:
        """Use less of the device, by a new plan where one can be made.

        Raises:
            ComponentError: there is nothing left to give up.
        """
        self.stream.release()
        free(self.device)
        if self._turns.alone("backbone"):
            logger.warning("the device has less memory than planned; the decoder leaves it")
            return
        before = len(self.stream.resident), self.stream.slots
        plan = None if self._room is None else self._room.plan()
        if plan is not None and (len(plan.resident), plan.slots) < before and plan.slots:
            self.stream.resize(_resident(self.stream.source, len(plan.resident)), plan.slots)
        else:
            self.stream.shrink()
        logger.warning(
            "the device has less memory than planned: %d blocks stay on it instead of %d",
            len(self.stream.resident),
            before[0],
        )

    def _regain(self) -> None:
        """Go back to the first plan, or towards it, when memory has come back."""
        planned, now = self._planned, len(self.stream.resident)
        if self._room is None or (now, self.stream.slots) >= (planned.resident, planned.slots):
            return
        plan = self._room.plan()
        count = min(len(plan.resident), planned.resident)
        if plan.shortage == 0 and count > now:
            self.stream.resize(_resident(self.stream.source, count), max(plan.slots, planned.slots))
            logger.info("the device has memory again: %d blocks stay on it", count)

    def _precompute(
        self,
        conditioning: Conditioning,
        timesteps: Sequence[Tensor],
        attention: AttentionBackend | None,
    ) -> list[PromptState]:
        kernel = attention or self.model.attention
        return precompute(self.model, conditioning, timesteps, self.device, kernel)

    def _prompt(
        self, conditioning: Conditioning, timestep: Tensor, attention: AttentionBackend | None
    ) -> PromptState:
        told = self._prompts.get(id(conditioning))
        known = None if told is None else told.at(float(timestep[0]))
        # A batch of several timesteps is a call of its own, and none that a job repeats.
        if known is not None and bool((timestep == timestep[0]).all()):
            return known
        return self._precompute(conditioning, [timestep], attention)[0]


@dataclass
class _Told:
    """What was made of one prompt: a state a timestep, and the image tokens that all share."""

    conditioning: Conditioning
    states: dict[float, PromptState] = field(default_factory=dict[float, PromptState])
    image: Tensor | None = None

    def add(self, timesteps: Sequence[Tensor], made: Sequence[PromptState]) -> None:
        """Keep states; image tokens, which stand first and know no timestep, only once."""
        image = self.conditioning.image
        count = 0 if image is None else image.shape[1]
        for timestep, state in zip(timesteps, made, strict=True):
            if self.image is None:
                self.image = state.text[:, :count].clone()
            self.states[float(timestep[0])] = replace(state, text=state.text[:, count:].clone())

    def at(self, timestep: float) -> PromptState | None:
        """The whole state, if it was made."""
        state = self.states.get(timestep)
        if state is None or self.image is None:
            return None
        return replace(state, text=torch.cat([self.image, state.text], dim=1))


def _sources(
    blocks: Sequence[nn.Module], device: torch.device, how: Streaming
) -> tuple[BlockSource, BlockSource | None]:
    """Where streamed blocks wait, and through what resident ones come if not from there."""
    tensors = [tensors_of(block, is_modulation) for block in blocks]
    pin = device.type == "cuda"
    threads = how.threads or min(8, os.cpu_count() or 1)
    mapped = MappedSource(tensors, ring=how.ring, pin=pin, threads=threads)
    if how.pinned and how.resident < len(blocks):
        return PinnedSource(tensors, pin=pin, threads=threads), mapped
    return mapped, None


def _resident(source: BlockSource, count: int) -> Collection[int]:
    """Which blocks stay: as a plan for so many counts them."""
    return staying([layout.size for layout in source.layouts], count)
