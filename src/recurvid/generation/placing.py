"""A released model's Components under a memory budget: what does not fit takes turns."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from recurvid.checkpoints.locate import ModelFiles
from recurvid.errors import ComponentError
from recurvid.generation.components import Components, Embeds, EncodeText, Layout
from recurvid.generation.memory_plan import (
    DENOISE,
    TEXT,
    TILES,
    MemoryQuestion,
    decode_room,
    decode_tile,
    plan_memory,
)
from recurvid.generation.runtime import Runtime
from recurvid.generation.tuned import attention_for, finished
from recurvid.generation.video_plan import VideoPlan
from recurvid.memory.budget import CONTEXT, GIB, LEFT_TO_OTHERS, MemoryBudget, Placement
from recurvid.memory.machine import available_memory, free_on
from recurvid.memory.residency import Turns, free, is_out_of_memory, limit_allocator
from recurvid.models.converted import Conversion
from recurvid.models.packed_dit.in_pieces import Pieces
from recurvid.models.placed import PlacedDiT, Room, Streaming
from recurvid.models.protocol import Backbone
from recurvid.ops.attention.registry import ATTENTION
from recurvid.ops.linear.forms import AUTO
from recurvid.settings import settings
from recurvid.vae.hunyuan import HunyuanCodec
from recurvid.vae.lean_decoder import bytes_of_tile

#: Tiles of a decode that is short of room, in pixels.
LARGEST_TILE, SMALLEST_TILE = TILES[1], TILES[-1]
#: Casting up to so much is done in memory; more goes to a file, as rounded weights do.
CAST_IN_MEMORY = GIB
#: Kept free of the disk on which converted weights are written.
_DISK_LEFT = GIB

logger = logging.getLogger(__name__)


def budget_of(runtime: Runtime, folder: Path, held: int = 0) -> MemoryBudget | None:
    """What a run may use: ``--vram``, and no more than a CUDA device has free; None for neither.

    Args:
        folder: where the session lies.
        held: bytes of system memory that this process gives up if need be.
    """
    if runtime.vram is None and runtime.device.type != "cuda":
        return None
    vram = runtime.vram
    if runtime.device.type == "cuda":
        # What is free now has CUDA's own part taken off already.
        there = (free_on(runtime.device) + CONTEXT) / GIB
        vram = there if vram is None else min(vram, there)
    assert vram is not None
    ram, swap = available_memory()
    ram = None if ram is None else ram + held
    home = max(0, _free_disk(converted_folder()) - _DISK_LEFT)
    return MemoryBudget.of(vram, ram=ram, swap=swap, disk=_free_disk(folder), home=home)


def converted_folder() -> Path:
    """Where weights in another form are kept, for all runs of this machine."""
    return settings().home / "weights"


def _free_disk(folder: Path) -> int:
    """Free where a folder is or will be."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free


def question_of(
    plan: VideoPlan, weights: str = AUTO, *, sparse: bool = False, rounds: bool = False
) -> MemoryQuestion:
    """What of a video, and of how its model runs, decides how much memory it takes."""
    request = plan.request
    assert request.steps is not None
    return MemoryQuestion(
        plan.sections.schedule,
        plan.height,
        plan.width,
        request.steps,
        passes=1 if request.cfg_scale in (None, 1.0) else 2,
        weights=weights,
        cache=request.step_cache,
        frames=plan.frames,
        sparse=sparse,
        rounds=rounds,
    )


def under_budget(
    components: Components, files: ModelFiles, plan: VideoPlan, folder: Path, held: int = 0
) -> Components:
    """The components, made to keep a budget; themselves where there is none, or a small model.

    Args:
        held: as for ``budget_of``.

    Raises:
        ComponentError: what cannot fit, with numbers; nothing was loaded yet.
    """
    budget = None if files.spec.bundled else budget_of(components.runtime, folder, held)
    if budget is None:
        return components
    weights = components.runtime.weights
    conversion = Conversion(files["transformer"], weights, components.dtype)
    sparse, kernel = components.runtime.sparse, ATTENTION.get(components.runtime.attention)
    rounds = kernel is not None and not kernel.exact  # "auto" takes none that does
    question = question_of(plan, weights, sparse=sparse is not None, rounds=rounds)
    placement = plan_memory(budget, question, conversion.config)
    placement, on_disk = _with_converted(placement, conversion)
    placement.refuse(f"{files.spec.name} at {plan.width}x{plan.height}")
    limit_allocator(components.device, budget.allocator)
    decoding = Decoding(
        decode_tile(budget, question, conversion.config), decode_room(placement, question)
    )
    return _placed(components, conversion, on_disk, placement, decoding)


def _with_converted(placement: Placement, conversion: Conversion) -> tuple[Placement, bool]:
    """The plan with what a conversion asks for, and whether it goes to disk.

    To disk, unless it is small or only memory has room for it.
    """
    if conversion.size == 0:
        return placement, False
    budget, size = placement.budget, conversion.size
    in_memory = replace(placement, ram=placement.ram + size)
    if conversion.form == AUTO and size <= CAST_IN_MEMORY:
        return in_memory, False
    if conversion.is_in(converted_folder()):
        return placement, True
    on_disk = replace(placement, kept=size)
    full = budget.home is not None and size > budget.home
    roomy = budget.ram is not None and in_memory.ram + LEFT_TO_OTHERS <= budget.ram
    return (in_memory, False) if full and roomy else (on_disk, True)


@dataclass(frozen=True)
class Decoding:
    """How the autoencoder keeps to a plan.

    Attributes:
        tile: side of the tiles in which a large picture is encoded, pixels; 0 for none.
        room: bytes that one decoder run may take.
    """

    tile: int
    room: int


def _placed(
    components: Components,
    conversion: Conversion,
    on_disk: bool,
    placement: Placement,
    decoding: Decoding,
) -> Components:
    device, runtime = components.device, components.runtime
    turns = Turns(device, together=placement.together)
    old = components.loaders
    assert old.for_budget is not None
    budgeted = old.for_budget

    def backbone() -> PlacedDiT:
        path = conversion.write(converted_folder(), device) if on_disk else None
        model = conversion.load(path)
        model.attention = attention_for(runtime, model.config, components.dtype)
        at_once = placement.phase(DENOISE).need.at_once
        model.pieces = Pieces(at_once) if at_once else None
        finished(model, runtime)
        return PlacedDiT(
            model, device, _streaming(placement), turns=turns, room=_room(placement, device)
        )

    def codec() -> TurnTakingCodec:
        return TurnTakingCodec(budgeted.codec_on_cpu(), device, turns, decoding)

    def text() -> EncodeText:
        return _with_fewer_layers(budgeted.text, len(placement.phase(TEXT).resident), device)

    loaders = replace(old, text=text, codec=codec, backbone=backbone)
    layout = _layout(placement, turns, 0 if on_disk else conversion.size)
    return replace(components, loaders=loaders, layout=layout)


def _layout(placement: Placement, turns: Turns, in_memory: int) -> Layout:
    """For a backbone that an earlier session has loaded under a plan like this one.

    Args:
        in_memory: bytes of weights that were made in memory.
    """

    def join(model: Backbone) -> None:
        assert isinstance(model, PlacedDiT)
        model.join(turns, _room(placement, turns.device), stays=_stays(placement))

    def held(model: Backbone) -> int:
        assert isinstance(model, PlacedDiT)
        return model.held + in_memory

    at_once = placement.phase(DENOISE).need.at_once
    layout = (_streaming(placement), placement.together, in_memory, at_once)
    return Layout(layout, join, held)


def _stays(placement: Placement) -> bool:
    """Whether the encoders, and all else that comes before it, have room beside the backbone."""
    denoise = placement.phase(DENOISE)
    there = denoise.need.weights + denoise.resident_bytes + denoise.slot_bytes
    before = placement.phases[: placement.phases.index(denoise)]
    return all(plan.device + there <= plan.limit for plan in before)


def _streaming(placement: Placement) -> Streaming:
    denoise = placement.phase(DENOISE)
    return Streaming(
        resident=len(denoise.resident),
        slots=denoise.slots or 2,  # should blocks have to leave in mid-run
        pinned=placement.source == "pinned",
    )


def _room(placement: Placement, device: torch.device) -> Room | None:
    """For plans in mid-run; None where nobody can say what a device has left."""
    if device.type != "cuda":
        return None
    limit = placement.budget.allocator
    return Room(placement.phase(DENOISE).need, lambda: min(limit, free_on(device)))


def _with_fewer_layers(
    load: Callable[[int], EncodeText], resident: int, device: torch.device
) -> EncodeText:
    """A text encoder that comes again with fewer layers on the device if that is full."""

    def encode(texts: list[str]) -> Embeds:
        layers = resident
        while True:
            try:
                return load(layers)(texts)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if layers == 0:
                    raise ComponentError(
                        "out of device memory while encoding the prompt; close other programs "
                        "that use the device"
                    ) from None
            layers //= 2
            logger.warning("the device has less memory than planned: %d layers stay", layers)
            free(device)

    return encode


class TurnTakingCodec(HunyuanCodec):
    """HunyuanVideo's autoencoder that is on the device only while it works.

    Args:
        inner: on the CPU.
        how: tiles and room; less of both if the device turns out to have less.
    """

    def __init__(self, inner: HunyuanCodec, device: torch.device, turns: Turns, how: Decoding):
        super().__init__(inner.module)
        self._device, self._turns = device, turns
        self._tile = how.tile
        if how.tile:
            self._use_tiles(how.tile)
        self.room = how.room

    def encode(self, frames: Tensor) -> Tensor:
        """See HunyuanCodec; the device is the codec's afterwards."""
        return self._here_and(lambda: HunyuanCodec.encode(self, frames))

    def decode_tile(self, latents: Tensor) -> Tensor:
        """See HunyuanCodec; the device is the codec's afterwards."""
        return self._here_and(lambda: HunyuanCodec.decode_tile(self, latents))

    def _here_and(self, work: Callable[[], Tensor]) -> Tensor:
        while True:
            try:
                self._turns.take("vae", self._arrive, self._leave)
                return work()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # Outside of the handler, which would keep the failed work's tensors alive.
            self._give_way()

    def _give_way(self) -> None:
        """Use less of the device: first without the backbone beside, then in smaller tiles.

        Raises:
            ComponentError: there is nothing left to give up.
        """
        free(self._device)
        if self._turns.alone("vae"):
            logger.warning("the device has less memory than planned; the backbone leaves it")
            return
        planned = bytes_of_tile(self._tile or LARGEST_TILE)
        if self.room > planned:
            logger.warning("the device has less memory than planned: frames in smaller windows")
            self.room = max(planned, self.room // 2)
            return
        smaller = LARGEST_TILE if not self._tile else self._tile - 64
        if smaller < SMALLEST_TILE:
            raise ComponentError(
                f"out of device memory even with tiles of {self._tile} px; close other programs "
                "that use the device, then `recurvid resume` goes on"
            )
        logger.warning("the device has less memory than planned: tiles of %d px", smaller)
        self._use_tiles(smaller)

    def _use_tiles(self, side: int) -> None:
        """Decode in what memory a tile of this side was planned to take; encode in such tiles."""
        self._tile = side
        self.room = bytes_of_tile(side)
        self.module.enable_tiling(
            tile_sample_min_height=side,
            tile_sample_min_width=side,
            tile_sample_stride_height=side * 3 // 4,
            tile_sample_stride_width=side * 3 // 4,
        )

    def _arrive(self) -> None:
        _move(self.module, self._device)

    def _leave(self) -> None:
        _move(self.module, torch.device("cpu"))


def _move(module: torch.nn.Module, device: torch.device) -> None:
    module.to(device)
