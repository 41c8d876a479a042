"""Few bits and compiled blocks: which layers, how large, how exact, and how often compiled."""

from __future__ import annotations

import pytest
import torch
from dit_cases import group, randomise, relative
from torch._dynamo.testing import CompileCounterWithBackend

from recurvid.conditioning import Conditioning
from recurvid.errors import ComponentError
from recurvid.latents import LatentFrames
from recurvid.models.compiled import blocks_of, compile_blocks, fuse_products
from recurvid.models.packed_dit.config import PRESETS, PackedDiTConfig
from recurvid.models.packed_dit.model import PackedDiT
from recurvid.models.quantized import bears_few_bits, quantize
from recurvid.ops.attention.reference import REFERENCE
from recurvid.packing.pack import PackedContext

CONFIG = PackedDiTConfig(
    in_channels=4,
    out_channels=4,
    num_attention_heads=4,
    attention_head_dim=32,
    num_layers=2,
    num_single_layers=3,
    num_refiner_layers=1,
    text_embed_dim=12,
    pooled_projection_dim=8,
    image_proj_dim=10,
    rope_axes_dim=(8, 12, 12),
)


def model_of() -> PackedDiT:
    torch.manual_seed(0)
    model = PackedDiT(CONFIG)
    randomise(model, sharp=False)
    return model.eval().requires_grad_(False)


def run(model: PackedDiT, *, words: int = 5, frames: int = 2, **handed):
    g = torch.Generator().manual_seed(1)

    def rand(*shape: int):
        return torch.randn(*shape, generator=g).to(model.dtype)

    conditioning = Conditioning(
        text=rand(1, 9, 12),
        text_mask=torch.arange(9)[None] < words,
        pooled=rand(1, 8),
        image=rand(1, 20, 10),
        guidance=torch.tensor([10.0]),
    )
    context = PackedContext((group("k1", rand(1, 4, 1, 8, 8), torch.tensor([[0]])),))
    target = LatentFrames.of(rand(1, 4, frames, 8, 8), list(range(3, 3 + frames)))
    if handed.pop("vectors", False):
        prompt = model.embed_prompt(conditioning, torch.tensor([700.0]))
        handed["prompt"] = model.with_vectors(prompt)
    return model(target, torch.tensor([700.0]), conditioning, context, **handed)


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "name",
    [
        "transformer_blocks.0.attn.to_q",
        "transformer_blocks.19.attn.to_out.0",
        "transformer_blocks.3.attn.add_k_proj",
        "transformer_blocks.3.attn.to_add_out",
        "transformer_blocks.7.ff.net.0.proj",
        "transformer_blocks.7.ff_context.net.2",
        "single_transformer_blocks.39.attn.to_v",
        "single_transformer_blocks.0.proj_mlp",
        "single_transformer_blocks.0.proj_out",
    ],
)
def test_wide_layers_of_the_blocks_are_rounded(name):
    assert bears_few_bits(name)


@pytest.mark.parametrize(
    "name",
    [
        "proj_out",
        "norm_out.linear",
        "transformer_blocks.0.norm1.linear",
        "transformer_blocks.0.norm1_context.linear",
        "single_transformer_blocks.0.norm.linear",
        "context_embedder.proj_in",
        "context_embedder.token_refiner.refiner_blocks.0.attn.to_q",
        "context_embedder.token_refiner.refiner_blocks.0.ff.net.2",
        "time_text_embed.timestep_embedder.linear_1",
        "image_projection.up",
    ],
)
def test_what_hurts_stays(name):
    assert not bears_few_bits(name)


def test_the_released_size_in_8_bit():
    with torch.device("meta"):
        model = PackedDiT(PRESETS["13b"]).bfloat16()
    done = quantize(model, "int8-weights")
    # 20 blocks of 12 wide layers and 40 of 5: 9.05 billion of 12.87 billion parameters.
    assert len(done.names) == 20 * 12 + 40 * 5
    assert done.bytes_before / 2**30 == pytest.approx(23.97, abs=0.05)
    assert (done.bytes_before - done.bytes_after) / 1e9 == pytest.approx(9.05, abs=0.05)


@pytest.mark.parametrize(
    ("form", "least", "most"),
    [
        ("int8", 0.002, 0.03),
        ("fp8", 0.01, 0.09),
        ("int8-weights", 0.001, 0.02),
        ("nf4", 0.03, 0.2),
        ("int4", 0.03, 0.25),
    ],
)
def test_a_whole_model_errs_by_its_bits(form, least, most):
    exact = run(model_of())
    model = model_of()
    quantize(model, form)
    assert least < relative(run(model), exact) < most


def test_unknown_form():
    with pytest.raises(ComponentError, match="'q2' are unknown; known: int8"):
        quantize(model_of(), "q2")


@pytest.mark.parametrize("form", [None, "int8"])
def test_compiled_equals_plain_and_compiles_once_a_kind(form):
    model = model_of()
    if form:
        quantize(model, form)
    plain = run(model, vectors=True)
    counter = CompileCounterWithBackend("aot_eager")
    compile_blocks(model, backend=counter, dynamic=False)
    assert relative(run(model, vectors=True), plain) < 1e-5
    assert counter.frame_count == 2
    # Another step, another section: nothing is compiled again.
    run(model, vectors=True)
    assert counter.frame_count == 2
    assert len(blocks_of(model)) == 5


def test_a_kernel_of_another_name_compiles_again():
    model = model_of()
    counter = CompileCounterWithBackend("aot_eager")
    compile_blocks(model, backend=counter, dynamic=False)
    plain = run(model)
    assert relative(run(model, attention=REFERENCE), plain) < 1e-4
    assert counter.frame_count == 4


def test_names_of_parameters_survive_compiling():
    model = model_of()
    names = set(model.state_dict())
    compile_blocks(model, backend="aot_eager")
    assert set(model.state_dict()) == names


def test_fused_products_change_nothing_off_a_card():
    model = model_of()
    plain = run(model)
    fuse_products(model)
    assert torch.equal(run(model), plain)
    assert all(b.fused for b in model.single_transformer_blocks)
    fuse_products(model, on=False)
    assert not any(b.fused for b in model.single_transformer_blocks)


@pytest.mark.gpu
@pytest.mark.parametrize("form", [None, "int8"])
def test_fused_products_on_a_card(form):
    model = model_of().cuda().bfloat16()
    exact = run(model_of())
    target = run_on_cuda(model)
    fuse_products(model)
    if form:
        quantize(model, form, "cuda")
    assert relative(run_on_cuda(model).cpu(), exact) < 1.2 * relative(target.cpu(), exact) + 0.02


def run_on_cuda(model: PackedDiT):
    with torch.no_grad(), torch.device("cuda"):
        g = torch.Generator().manual_seed(1)

        def rand(*shape: int):
            return torch.randn(*shape, generator=g, device="cpu").to("cuda", model.dtype)

        conditioning = Conditioning(
            text=rand(1, 9, 12),
            text_mask=torch.arange(9)[None] < 5,
            pooled=rand(1, 8),
            image=rand(1, 20, 10),
            guidance=torch.tensor([10.0]),
        )
        context = PackedContext((group("k1", rand(1, 4, 1, 8, 8), torch.tensor([[0]])),))
        target = LatentFrames.of(rand(1, 4, 2, 8, 8), [3, 4])
        return model(target, torch.tensor([700.0]), conditioning, context)
