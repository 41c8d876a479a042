"""A large model's first blocks stay whole in 8 bits: everywhere, and counted to the byte."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.memory.streams import LateCopies
from tests.models.dit_cases import Case, group, randomise, relative
from torch import nn
from torch._dynamo import config as dynamo
from torch._dynamo.testing import CompileCounterWithBackend

from recurvid.generation.memory_plan import backbone_sizes
from recurvid.latents import LatentFrames
from recurvid.memory.budget import PhaseNeed, place_phase
from recurvid.models.compiled import blocks_of, compile_blocks
from recurvid.models.converted import Conversion
from recurvid.models.loading import load_backbone
from recurvid.models.packed_dit.config import PRESETS, PackedDiTConfig
from recurvid.models.packed_dit.model import PackedDiT
from recurvid.models.placed import PlacedDiT, Streaming
from recurvid.models.quantized import KEPT, LEAST_BLOCKS, quantize, rounded_in
from recurvid.ops.attention.reference import REFERENCE
from recurvid.ops.linear.layers import EightBitLinear
from recurvid.packing.pack import PackedContext

CPU, BF16 = torch.device("cpu"), torch.bfloat16
DOUBLE, SINGLE = KEPT + 2, LEAST_BLOCKS - KEPT - 2


def config_of(double: int = DOUBLE, single: int = SINGLE) -> PackedDiTConfig:
    return PackedDiTConfig(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=double,
        num_single_layers=single,
        num_refiner_layers=1,
        text_embed_dim=12,
        pooled_projection_dim=8,
        image_proj_dim=10,
        rope_axes_dim=(4, 6, 6),
    )


def model_of(dtype: torch.dtype = torch.float32) -> PackedDiT:
    torch.manual_seed(0)
    model = PackedDiT(config_of())
    randomise(model, sharp=False)
    return model.eval().requires_grad_(False).to(dtype)


class Inputs:
    """Of a call of the model above."""

    def __init__(self, dtype: torch.dtype = torch.float32):
        case = Case(5)
        case.config, case.lengths, case.size = config_of(), [4], (4, 6)
        drawn = case.inputs(dtype)
        self.conditioning = drawn.conditioning
        frames = {k: LatentFrames.of(drawn.latents[k], case.index[k]) for k in case.index}
        self.target = frames["g"]
        context = [group(k, frames[k].data, frames[k].index) for k in ("k4", "k2", "k1")]
        self.context = PackedContext(tuple(context))

    def run(self, model: PackedDiT | PlacedDiT, value: float = 700.0, **handed) -> torch.Tensor:
        timestep = torch.full((1,), value)
        if isinstance(model, PackedDiT):
            prompt = model.embed_prompt(self.conditioning, timestep)
            handed["prompt"] = model.with_vectors(prompt)
        with torch.no_grad():
            return model(self.target, timestep, self.conditioning, self.context, **handed)


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("form", ["int8", "fp8"])
@pytest.mark.parametrize("kind", ["transformer_blocks", "single_transformer_blocks"])
def test_the_first_blocks_of_each_kind(form: str, kind: str):
    rounded = rounded_in(form, PRESETS["13b"])
    assert [rounded(f"{kind}.{i}.attn.to_q") for i in (0, 1, 2, 3, 10, 19)] == [False] * 3 + [
        True
    ] * 3
    assert not rounded(f"{kind}.10.norm.linear")


def test_not_where_only_weights_are_rounded_or_blocks_are_few():
    name = "transformer_blocks.0.attn.to_q"
    assert all(rounded_in(form, PRESETS["13b"])(name) for form in ("int8-weights", "nf4", "int4"))
    assert rounded_in("int8", PRESETS["bundled"])(name)
    assert rounded_in("int8", config_of(single=SINGLE - 1))(name)
    assert not rounded_in("int8", config_of())(name)
    assert rounded_in("int8", config_of(), kept=0)(name)


def test_the_released_size():
    with torch.device("meta"):
        model = PackedDiT(PRESETS["13b"])
    linears = [name for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    assert sum(map(rounded_in("int8", model.config), linears)) == 17 * 12 + 37 * 5
    blocks, all_rounded = (backbone_sizes(model.config, f).blocks for f in ("int8", "nf4"))
    assert round(sum(blocks) / 1e9, 2) == 10.09
    assert blocks[2] == backbone_sizes(model.config).blocks[2] > blocks[3] > all_rounded[3]


@pytest.mark.parametrize("form", ["int8", "fp8"])
def test_the_output_is_that_of_plain_first_blocks(form: str):
    inputs, plain = Inputs(), model_of()
    model, reference, everything = model_of(), model_of(), model_of()
    quantize(model, form)
    quantize(reference, form, kept=0)
    quantize(everything, form, kept=0)
    for i in range(KEPT):
        reference.transformer_blocks[i] = plain.transformer_blocks[i]
        reference.single_transformer_blocks[i] = plain.single_transformer_blocks[i]
    assert inputs.run(model).equal(inputs.run(reference))
    exact = inputs.run(plain)
    assert relative(inputs.run(model), exact) < relative(inputs.run(everything), exact)


def test_kept_layers_are_in_the_models_own_type():
    model = model_of(BF16)
    quantize(model, "int8")
    for blocks in (model.transformer_blocks, model.single_transformer_blocks):
        for number, block in enumerate(blocks):
            few = any(isinstance(m, EightBitLinear) for m in block.modules())
            assert few == (number >= KEPT)
            whole = {p.dtype for p in block.parameters() if p.ndim == 2}
            assert whole == {BF16}


@pytest.mark.parametrize("dtype", [BF16, torch.float32])
def test_from_file_to_file(tmp_path: Path, dtype: torch.dtype):
    source = tmp_path / "dit.safetensors"
    save_file(model_of(dtype).state_dict(), source)
    source.with_suffix(".json").write_text(json.dumps(config_of().to_dict()))
    conversion = Conversion(source, "int8", BF16)
    path = conversion.write(tmp_path / "kept")
    expected = load_backbone(source, dtype=BF16)
    quantize(expected, "int8")
    state, wanted = conversion.load(path).state_dict(), expected.state_dict()
    assert state.keys() == wanted.keys()
    assert all(state[name].dtype == wanted[name].dtype for name in wanted)
    assert all(state[name].equal(wanted[name]) for name in wanted)
    held = load_file(path)
    assert conversion.size == sum(t.nbytes for t in held.values())
    early = "transformer_blocks.1.attn.to_q"
    assert (f"{early}.weight" in held) == (dtype != BF16)
    assert f"{early}.scale" not in held


def placed(model: PackedDiT, **streaming) -> PlacedDiT:
    return PlacedDiT(copy.deepcopy(model), CPU, Streaming(**streaming), copies=LateCopies())


@pytest.mark.parametrize("form", ["auto", "int8", "fp8", "nf4"])
def test_the_plan_counts_the_bytes_that_are_there(form: str):
    model = model_of(BF16)
    if form != "auto":
        quantize(model, form)
    stream = placed(model).stream
    sizes = tuple(layout.size for layout in stream.source.layouts)
    assert sizes == backbone_sizes(config_of(), form).blocks
    assert len(set(sizes)) == (4 if form in ("int8", "fp8") else 2)


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("count", [0, 1, 3, 7, 14, 19, 20])
def test_streaming_gives_the_bits_of_resident_within_the_plan(count: int, pinned: bool):
    inputs, model = Inputs(BF16), model_of(BF16)
    quantize(model, "int8")
    blocks = backbone_sizes(config_of(), "int8").blocks
    streamed = placed(model, resident=count, pinned=pinned)
    for value in (900.0, 400.0):
        assert inputs.run(streamed, value).equal(inputs.run(model, value))
    resident = streamed.stream.resident
    largest = max((size for i, size in enumerate(blocks) if i not in resident), default=0)
    taken = sum(blocks[i] for i in resident) + 2 * largest
    assert streamed.stream.device_bytes == taken
    plan = place_phase(PhaseNeed("denoise", 0, 0, blocks), taken)
    assert plan.device <= taken
    assert sum(plan.streamed) <= sum(size for i, size in enumerate(blocks) if i not in resident)
    if len(plan.resident) == count:
        assert set(plan.resident) == resident


@pytest.mark.parametrize("streamed", [False, True])
def test_two_compiles_a_kind(streamed: bool):
    inputs, model = Inputs(), model_of()
    quantize(model, "int8")
    plain = inputs.run(model), inputs.run(model, 300.0)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = compile_blocks(copy.deepcopy(model), backend=counter, dynamic=False)
    assert len(blocks_of(compiled)) == LEAST_BLOCKS
    run = PlacedDiT(compiled, CPU, Streaming(resident=4)) if streamed else compiled
    assert relative(inputs.run(run), plain[0]) < 1e-5
    assert counter.frame_count == 4
    assert relative(inputs.run(run, 300.0), plain[1]) < 1e-5
    assert counter.frame_count == 4
    # One more kernel, as for exact first and last steps: far from the limit of one function.
    assert relative(inputs.run(run, attention=REFERENCE), plain[0]) < 1e-4
    assert counter.frame_count == 8
    assert counter.frame_count / 2 <= dynamo.recompile_limit / 2
