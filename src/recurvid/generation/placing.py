"""A released model's Components under a memory budget: what does not fit takes turns."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from recurvid.checkpoints.formats import open_checkpoint
from recurvid.checkpoints.int8 import dequantized
from recurvid.checkpoints.locate import ModelFiles
from recurvid.errors import ComponentError
from recurvid.generation.components import Components
from recurvid.generation.memory_plan import (
    DECODE,
    DENOISE,
    TEXT,
    MemoryQuestion,
    decode_tile,
    plan_memory,
)
from recurvid.generation.runtime import Runtime
from recurvid.generation.tuned import attention_for
from recurvid.generation.video_plan import VideoPlan
from recurvid.memory.budget import CONTEXT, GIB, MemoryBudget, Placement
from recurvid.memory.machine import available_memory, free_on
from recurvid.memory.residency import Turns, free, limit_allocator
from recurvid.models.loading import find_config, load_backbone
from recurvid.models.placed import PlacedDiT, Streaming
from recurvid.vae.hunyuan import HunyuanCodec

#: Forms whose weights take a byte; 4-bit ones are planned as if they did not pay.
EIGHT_BITS = ("int8", "fp8", "int8-weights")

logger = logging.getLogger(__name__)


def budget_of(runtime: Runtime, folder: Path) -> MemoryBudget | None:
    """What a run may use: ``--vram``, and no more than a CUDA device has free; None for neither.

    Args:
        folder: where the session lies.
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
    return MemoryBudget.of(vram, ram=ram, swap=swap, disk=shutil.disk_usage(folder).free)


def question_of(plan: VideoPlan) -> MemoryQuestion:
    """What of a video decides how much memory it takes."""
    request = plan.request
    assert request.steps is not None
    passes = 1 if request.cfg_scale in (None, 1.0) else 2
    return MemoryQuestion(
        plan.sections.schedule, plan.height, plan.width, request.steps, passes, frames=plan.frames
    )


def under_budget(
    components: Components, files: ModelFiles, plan: VideoPlan, folder: Path
) -> Components:
    """The components, made to keep a budget; themselves where everything fits at once anyway.

    Raises:
        ComponentError: what cannot fit, with numbers; nothing was loaded yet.
    """
    budget = None if files.spec.bundled else budget_of(components.runtime, folder)
    if budget is None:
        return components
    source = dequantized(open_checkpoint(files["transformer"]))
    config, question = find_config(source), question_of(plan)
    few = components.runtime.weights in EIGHT_BITS
    question = replace(question, weights=1) if few else question
    placement = plan_memory(budget, question, config)
    # A file of another number type is cast when it is loaded, and then lies in memory.
    cast = sum(
        components.dtype.itemsize * torch.Size(source.shape(name)).numel()
        for name in source.keys()  # noqa: SIM118 (a Checkpoint is no dict)
        if source.dtype(name) != components.dtype
    )
    placement = replace(placement, ram=placement.ram + cast)
    placement.refuse(f"{files.spec.name} at {plan.width}x{plan.height}")
    if components.runtime.vram is None and _fits_at_once(placement):
        return components
    if components.runtime.weights != "auto":
        raise ComponentError(
            f"--weights {components.runtime.weights} does not fit at once into "
            f"{budget.vram / GIB:.1f} GiB, and layers with few bits cannot be streamed yet; "
            "leave --weights out"
        )
    limit_allocator(components.device, budget.allocator)
    tile = decode_tile(budget, question)
    return _placed(components, files["transformer"], placement, tile)


def _fits_at_once(placement: Placement) -> bool:
    """Whether backbone, with all that is evaluated once, and decoder can simply stay."""
    denoise, decode = placement.phase(DENOISE), placement.phase(DECODE)
    once = int(7.6e9)
    together = denoise.device + decode.device + once
    return not denoise.streamed and together <= placement.budget.allocator


def _placed(
    components: Components, transformer: Path, placement: Placement, tile: int
) -> Components:
    device, dtype = components.device, components.dtype
    turns = Turns(device)
    denoise = placement.phase(DENOISE)
    streaming = Streaming(
        resident=len(denoise.resident),
        slots=max(1, denoise.slots),
        pinned=placement.source == "pinned",
    )
    old = components.loaders
    assert old.for_budget is not None

    def backbone() -> PlacedDiT:
        model = load_backbone(transformer, dtype=dtype, device="cpu")
        model.attention = attention_for(components.runtime, model.config, dtype)
        return PlacedDiT(model, device, streaming, turns=turns)

    def codec() -> TurnTakingCodec:
        assert old.for_budget is not None
        return TurnTakingCodec(old.for_budget.codec_on_cpu(), device, turns, tile)

    def text():
        assert old.for_budget is not None
        return old.for_budget.text(len(placement.phase(TEXT).resident))

    loaders = replace(old, text=text, codec=codec, backbone=backbone)
    return replace(components, loaders=loaders)


class TurnTakingCodec(HunyuanCodec):
    """HunyuanVideo's autoencoder that is on the device only while it works.

    Args:
        inner: on the CPU.
        tile: side of spatial tiles, pixels; 0 for none. Smaller ones are used if the device turns
            out to have less room.
    """

    def __init__(self, inner: HunyuanCodec, device: torch.device, turns: Turns, tile: int):
        super().__init__(inner.module)
        self._device, self._turns = device, turns
        self._tile = tile
        if tile:
            self._use_tiles(tile)

    def encode(self, frames: Tensor) -> Tensor:
        """See HunyuanCodec; the device is the codec's afterwards."""
        return self._here_and(lambda: HunyuanCodec.encode(self, frames))

    def decode_tile(self, latents: Tensor) -> Tensor:
        """See HunyuanCodec; the device is the codec's afterwards."""
        return self._here_and(lambda: HunyuanCodec.decode_tile(self, latents))

    def _here_and(self, work: Callable[[], Tensor]) -> Tensor:
        self._turns.take("vae", self._arrive, self._leave)
        while True:
            try:
                return work()
            except torch.OutOfMemoryError:
                smaller = 256 if not self._tile else self._tile - 64
                if smaller < 128:
                    raise
            logger.warning("the device has less memory than planned: tiles of %d px", smaller)
            self._use_tiles(smaller)
            free(self._device)

    def _use_tiles(self, side: int) -> None:
        self._tile = side
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
