"""plan_memory(): a model and a size -> Placement, before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch

from recurvid.caching.thresholds import OFF
from recurvid.errors import InputError
from recurvid.memory.budget import GIB, MemoryBudget, PhaseNeed, Placement, place, place_phase
from recurvid.memory.layout import BlockLayout, tensors_of
from recurvid.models.packed_dit.config import PRESETS, PackedDiTConfig
from recurvid.models.packed_dit.model import PackedDiT
from recurvid.models.packed_dit.precompute import ONCE, is_modulation
from recurvid.models.placed import ALWAYS
from recurvid.models.quantized import ROUNDED_PRODUCTS, rounded_in
from recurvid.ops.linear.forms import AUTO, FORMS, convert
from recurvid.packing.schedule import PackingSchedule
from recurvid.vae.lean_decoder import BYTES

TEXT, CLIP, PICTURE, ENCODE, PROMPT, DENOISE, DECODE = PHASES = (
    "LLaMA text encoding", "CLIP", "SigLIP", "VAE encode", "prompt and timesteps", "denoise",
    "VAE decode",
)  # fmt: skip

# Parameters of the released models' other parts (float16 each).
_LLAMA_EMBEDDING = 128_320 * 4096
_LLAMA_LAYER = 4096 * (2 * 4096 + 2 * 1024 + 3 * 14_336 + 2)
_LLAMA_LAYERS = 32
_CLIP, _SIGLIP, _VAE = 123_060_480, 428_225_600, 246_491_139
#: Prompt tokens at most, and image tokens, that run beside the video's.
_PROMPT_TOKENS, _IMAGE_TOKENS = 256, 729
#: Most that lives at once in a step, in units of one (tokens, width) tensor: 15.3 inside a
#: single-stream block (its input not counted; measured by tracking allocations on the meta
#: device), and the block's input, the double blocks' result and the embedded tokens beside it.
_UNITS = 18.5
#: What lies idle in the allocator's pieces, being too small for the next tensor, in the same units.
#: In a model of the allocator (tests/generation/test_memory_gaps.py) all plans for cards of 4 to 16
#: GiB hold with two, one in five fails with one, and nearly all do without, as on an H100.
_GAPS = 2
#: The same where blocks work on some tokens at a time: their input, q, k, v, what is attended, and
#: what pieces need. 5.4 to 6.4 live at once; all plans hold in the model of the allocator with 6.5.
_UNITS_IN_PIECES = 7
#: Tokens of a piece: large enough that a fast card is busy with it.
_PIECE = 3072
#: More of it where attention is sparse: what is gathered leaves gaps of many sizes. In pieces it
#: is gathered where nothing was let go before.
_SPARSE_GAPS, _SPARSE_IN_PIECES = 3, 4
#: More of it where attention rounds, in pieces: q, k and v in 8 bits, and on their way there.
_ROUNDING = 6
#: Tensors of the size of the video tokens that a step cache keeps for each pass.
HELD = {OFF: 0, "teacache": 2, "first-block": 2, "magcache": 1, "taylor": 3, "taylor-2": 4}
#: Encoders at their short inputs; libraries' workspaces.
_SMALL_WORK = int(0.3 * GIB)
#: Bytes of a decode a pixel and frame of a tile, fp16, from the peaks measured in
#: benchmarks: 22 GiB for 33 frames of 480x832 at once, 3.7 GiB for 17 of 256x256.
_DECODE_WHOLE, _DECODE_TILE = 1750, 3400
_TILE_FRAMES = 17
#: Sides of spatial tiles that are tried, in pixels; 0 is no tiling.
TILES = (0, 256, 192, 128)


@dataclass(frozen=True)
class MemoryQuestion:
    """What a plan depends on.

    Attributes:
        schedule: packing schedule, as text.
        height, width: pixels.
        steps: denoising steps; the vectors of each are kept.
        passes: 2 with classifier-free guidance.
        weights: form of the wide layers; "auto" leaves them in two bytes.
        cache: step cache, which keeps tensors of every pass from step to step.
        frames: of the video, for the disk.
        sparse: whether attention goes through windows.
        rounds: whether attention rounds what it is given.
    """

    schedule: str
    height: int
    width: int
    steps: int = 25
    passes: int = 1
    weights: str = AUTO
    cache: str = OFF
    frames: int = 150
    sparse: bool = False
    rounds: bool = False


@dataclass(frozen=True)
class BackboneSizes:
    """Bytes of a backbone's parts.

    Attributes:
        blocks: each block without its modulation.
        always: what stays on the device during a section.
        once: what is evaluated once a job.
        largest_once: the largest part of it that visits the device at one time.
        vectors: modulation of one prompt and timestep.
        rounded: what a form makes of the wide layers, which is kept in a file.
    """

    blocks: tuple[int, ...]
    always: int
    once: int
    largest_once: int
    vectors: int
    rounded: int


@cache
def backbone_sizes(config: PackedDiTConfig, form: str = AUTO) -> BackboneSizes:
    """Sizes of a configuration whose wide layers have a form, from a model without memory."""
    with torch.device("meta"):
        model = PackedDiT(config).to(torch.bfloat16)
    rounded = 0
    if form != AUTO:
        done = convert(model, FORMS[form], rounded_in(form, config))
        layers = [tensors_of(model.get_submodule(name)) for name in done.names]
        rounded = sum(t.nbytes for layer in layers for n, t in layer.items() if n != "bias")
    blocks: list[int] = []
    modulation: list[int] = []
    for block in (
        *model.transformer_blocks.children(),
        *model.single_transformer_blocks.children(),
    ):
        blocks.append(BlockLayout.of(tensors_of(block, is_modulation)).size)
        named = tensors_of(block)
        modulation.append(sum(t.nbytes for name, t in named.items() if is_modulation(name)))
    parts = {name: _bytes(getattr(model, name)) for name in (*ONCE, *ALWAYS)}
    outside = [parts[name] for name in ONCE]
    embedding = sum(outside) - parts["norm_out"]  # these visit together
    vectors = config.width * 2 * (12 * config.num_layers + 3 * config.num_single_layers + 2)
    return BackboneSizes(
        tuple(blocks),
        sum(parts[name] for name in ALWAYS),
        sum(modulation) + sum(outside),
        max(embedding, *modulation),
        vectors,
        rounded,
    )


def plan_memory(
    budget: MemoryBudget,
    question: MemoryQuestion,
    config: PackedDiTConfig | None = None,
    *,
    kept: int = 0,
) -> Placement:
    """Where everything of a released model's run will lie.

    Args:
        kept: bytes of weights in another form that have to be written first.

    Raises:
        InputError: latents of this size cannot be packed.
    """
    config = config or PRESETS["13b"]
    needs = phase_needs(budget, question, config)
    together = _resting_tile(budget, question, _denoising(budget, question, config)) is not None
    return place(budget, needs, _disk(question), kept=kept, together=together)


def phase_needs(
    budget: MemoryBudget, question: MemoryQuestion, config: PackedDiTConfig
) -> list[PhaseNeed]:
    """What each phase asks of the device, in order."""
    sizes, denoise = backbone_sizes(config, question.weights), _denoising(budget, question, config)
    vae, kept = 2 * _VAE, denoise.weights  # the patchify layers and all vectors stay
    tile = _resting_tile(budget, question, denoise)
    if tile is not None:  # backbone and decoder side by side
        denoise = replace(denoise, weights=kept + vae)
        kept += sum(sizes.blocks)
    else:
        tile = decode_tile(budget, question, config)
    # Made for all timesteps, before what they share is put together.
    made = question.steps * question.passes * (sizes.vectors + 2 * config.width * _beside(config))
    return [
        PhaseNeed(TEXT, 2 * _LLAMA_EMBEDDING, _SMALL_WORK, (2 * _LLAMA_LAYER,) * _LLAMA_LAYERS),
        PhaseNeed(CLIP, 2 * _CLIP, _SMALL_WORK),
        PhaseNeed(PICTURE, 2 * _SIGLIP, _SMALL_WORK),
        PhaseNeed(ENCODE, vae, _SMALL_WORK + _tile_work(question, tile) // _TILE_FRAMES),
        PhaseNeed(PROMPT, sizes.largest_once, _SMALL_WORK + made),
        denoise,
        PhaseNeed(DECODE, vae + kept, _room(budget, question, vae + kept) + _frames(question)),
    ]  # fmt: skip


def decode_room(placement: Placement, question: MemoryQuestion) -> int:
    """Bytes that one decoder run may take in a plan; what is larger is decoded in windows."""
    return placement.phase(DECODE).need.work - _frames(question)


def _room(budget: MemoryBudget, question: MemoryQuestion, weights: int) -> int:
    """As much as whole frames take, as is there, and no less than the smallest window takes."""
    there = budget.allocator - weights - _frames(question) - 128 * 2**20
    whole = question.height * question.width
    least = min(TILES[-1] ** 2, whole)
    return _TILE_FRAMES * BYTES * max(least, min(whole, there // (_TILE_FRAMES * BYTES)))


def decode_tile(
    budget: MemoryBudget, question: MemoryQuestion, config: PackedDiTConfig | None = None
) -> int:
    """Side of the largest tile that a decode has room for, pixels; 0 for whole frames.

    A smaller one where the backbone can then stay beside it: bringing that back takes longer than
    tiles do.
    """
    denoise = _denoising(budget, question, config or PRESETS["13b"])
    tile = _resting_tile(budget, question, denoise)
    if tile is not None:
        return tile
    room = budget.allocator - 2 * _VAE - denoise.weights - int(0.1 * GIB)
    return next((t for t in TILES if _tile_work(question, t) <= room), TILES[-1])


def _denoising(
    budget: MemoryBudget, question: MemoryQuestion, config: PackedDiTConfig
) -> PhaseNeed:
    """What denoising asks of the device; in pieces where not all blocks have room beside it."""
    if question.height % 16 or question.width % 16:
        raise InputError(f"size: {question.width}x{question.height} is not a multiple of 16")
    sizes, unit = backbone_sizes(config, question.weights), 2 * config.width
    video = PackingSchedule.parse(question.schedule).tokens(question.height, question.width).total
    # Of every timestep: the vectors and the refined prompt. Of all: the image tokens.
    image = _IMAGE_TOKENS if config.has_image_proj else 0
    told = question.steps * (sizes.vectors + _PROMPT_TOKENS * unit) + image * unit
    weights = sizes.always + question.passes * told
    tokens = video + _beside(config)
    beside = int(0.25 * video) * unit  # a section's context
    beside += question.passes * HELD[question.cache] * video * unit + 64 * 2**20
    whole = _UNITS + _GAPS + _SPARSE_GAPS * question.sparse
    whole = beside + int(whole * tokens * unit)
    units = _UNITS_IN_PIECES + (question.cache != OFF)  # which keeps what the blocks began with
    units += _SPARSE_IN_PIECES * question.sparse + _ROUNDING * question.rounds
    in_pieces = beside + int(units * tokens * unit)
    need = PhaseNeed(DENOISE, weights, whole, sizes.blocks, kept=True)
    if whole <= in_pieces or _has_room(need, budget, question.weights):
        return need
    return replace(need, work=in_pieces, at_once=_PIECE)


def _has_room(need: PhaseNeed, budget: MemoryBudget, form: str) -> bool:
    """Whether a card has room enough for blocks that work on all tokens at once."""
    plan = place_phase(need, budget.allocator)
    if form in (AUTO, *ROUNDED_PRODUCTS):
        return plan.slots == 0 and not plan.shortage
    # Such a form's matrices are widened for every piece anew, which takes longer than copies.
    return plan.slots != 1


def _beside(config: PackedDiTConfig) -> int:
    """Tokens that run beside the video's, at most."""
    return _PROMPT_TOKENS + (_IMAGE_TOKENS if config.has_image_proj else 0)


def _resting_tile(budget: MemoryBudget, question: MemoryQuestion, denoise: PhaseNeed) -> int | None:
    """Side of the largest decoder tile beside which all of the backbone can stay; None for none."""
    resting = denoise.weights + sum(denoise.blocks) + 2 * _VAE
    if resting + denoise.work > budget.allocator:
        return None
    room = budget.allocator - resting
    return next((t for t in TILES if _tile_work(question, t) <= room), None)


def _tile_work(question: MemoryQuestion, tile: int) -> int:
    """Peak of one decoder run over a temporal tile, and of the frames that it makes."""
    whole = question.height * question.width
    if tile == 0:
        return 33 * whole * _DECODE_WHOLE
    return min(tile * tile, whole) * _TILE_FRAMES * _DECODE_TILE + _frames(question)


def _frames(question: MemoryQuestion) -> int:
    """Decoded frames of a temporal tile in float32, put together, and their neighbour's."""
    return 4 * 3 * question.height * question.width * _TILE_FRAMES * 2


def _disk(question: MemoryQuestion) -> int:
    """Latents in float32, segments and results at a generous 1 bit a pixel, three copies."""
    pixels = question.height * question.width * question.frames
    return pixels // 256 * 16 * 4 + 3 * pixels // 8


def _bytes(module: torch.nn.Module | None) -> int:
    return 0 if module is None else sum(p.nbytes for p in module.parameters())
