"""What PackedDiT promises beside equality with diffusers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dit_cases import group, randomise, relative
from torch import nn

from recurvid.conditioning import Conditioning
from recurvid.errors import InputError
from recurvid.latents import LatentFrames
from recurvid.models.packed_dit.config import PRESETS, PackedDiTConfig
from recurvid.models.packed_dit.history import init_from_patchify
from recurvid.models.packed_dit.model import PackedDiT
from recurvid.models.protocol import Backbone
from recurvid.ops.attention.backend import AttentionBackend
from recurvid.ops.attention.sdpa import SDPA
from recurvid.packing.pack import PackedContext

CONFIG = PackedDiTConfig(
    in_channels=4,
    out_channels=4,
    num_attention_heads=2,
    attention_head_dim=16,
    num_layers=2,
    num_single_layers=2,
    num_refiner_layers=1,
    text_embed_dim=12,
    pooled_projection_dim=8,
    image_proj_dim=10,
    rope_axes_dim=(4, 6, 6),
)
EMPTY = PackedContext(())


def model_of(config: PackedDiTConfig = CONFIG) -> PackedDiT:
    torch.manual_seed(0)
    model = PackedDiT(config)
    randomise(model)
    return model.eval().requires_grad_(False)


def latents(batch: int = 1, frames: int = 2, size: tuple[int, int] = (4, 6), seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 4, frames, *size, generator=g)


def conditioning(lengths: list[int], padded: int = 9, seed: int = 0) -> Conditioning:
    g, b = torch.Generator().manual_seed(seed), len(lengths)
    return Conditioning(
        text=torch.randn(b, padded, 12, generator=g),
        text_mask=torch.arange(padded)[None] < torch.tensor(lengths)[:, None],
        pooled=torch.randn(b, 8, generator=g),
        image=torch.randn(b, 3, 10, generator=g),
        guidance=torch.rand(b, generator=g) * 10,
    )


def rows(c: Conditioning, i: int) -> Conditioning:
    return Conditioning(**{k: v[i : i + 1] for k, v in vars(c).items()})


class Recorder:
    """An attention backend that remembers what it was called with."""

    def __init__(self):
        self.masks: list[torch.Tensor | None] = []
        self.keys: list[int] = []
        self.backend = AttentionBackend("recorder", self._attend, lambda spec: None)

    def _attend(self, q, k, v, mask):
        self.masks.append(mask)
        self.keys.append(k.shape[1])
        return SDPA.function(q, k, v, mask)


@pytest.mark.parametrize("lengths", [[5, 5, 5], [5, 2, 9]])
def test_batch_of_different_gaps_equals_its_single_runs(lengths):
    model, cond = model_of(), conditioning(lengths)
    t = torch.tensor([900.0, 500.0, 20.0])
    target = LatentFrames(latents(3), torch.tensor([[10, 11], [3, 4], [40, 41]]))
    history = torch.tensor([[0, 12, 13], [0, 5, 6], [1, 42, 43]])
    context = PackedContext(
        (group("k2", latents(3, 3, seed=1), history), group("k1", latents(3, 3, seed=2), history))
    )
    whole = model(target, t, cond, context)
    for i in range(3):
        one = LatentFrames(target.data[i : i + 1], target.index[i : i + 1])
        groups = tuple(
            group(str(g.kernel), g.frames.data[i : i + 1], g.frames.index[i : i + 1])
            for g in context.groups
        )
        alone = model(one, t[i : i + 1], rows(cond, i), PackedContext(groups))
        assert relative(whole[i : i + 1], alone) < 1e-5


def test_no_padding_penalty_where_lengths_agree():
    model, recorder = model_of(), Recorder()
    target = LatentFrames.of(latents(2), [0, 1])
    model(target, torch.ones(2), conditioning([4, 4]), EMPTY, attention=recorder.backend)
    video = 2 * 2 * 3
    assert recorder.masks == [None] * 5
    assert recorder.keys == [4] + [video + 3 + 4] * 4


def test_different_lengths_are_cut_to_the_longest():
    model, recorder = model_of(), Recorder()
    target = LatentFrames.of(latents(2), [0, 1])
    model(target, torch.ones(2), conditioning([4, 6]), EMPTY, attention=recorder.backend)
    assert recorder.keys == [6] + [12 + 3 + 6] * 4
    assert all(mask is not None for mask in recorder.masks)


@pytest.mark.parametrize("lengths", [[4], [4, 4], [4, 7]])
def test_padding_is_not_read(lengths):
    model, cond = model_of(), conditioning(lengths)
    target, t = LatentFrames.of(latents(len(lengths)), [0, 1]), torch.ones(len(lengths))
    dirty = replace(cond, text=torch.where(cond.text_mask[..., None], cond.text, 1e4))
    assert torch.equal(model(target, t, dirty, EMPTY), model(target, t, cond, EMPTY))


def test_a_mask_with_a_hole_is_respected():
    model, cond = model_of(), conditioning([6])
    target, t = LatentFrames.of(latents(), [0, 1]), torch.ones(1)
    holed = replace(cond, text_mask=torch.tensor([[1, 1, 0, 1, 1, 1, 0, 0, 0]]).bool())
    short = replace(
        cond,
        text=cond.text[:, [0, 1, 3, 4, 5]],
        text_mask=torch.ones(1, 5, dtype=torch.bool),
    )
    assert relative(model(target, t, holed, EMPTY), model(target, t, short, EMPTY)) < 1e-6


def test_parts_made_before_change_nothing():
    model, cond = model_of(), conditioning([4, 6])
    target, t = LatentFrames.of(latents(2), [5, 6]), torch.tensor([30.0, 900.0])
    context = PackedContext((group("k1", latents(2, 1), torch.tensor([[0], [0]])),))
    plain = model(target, t, cond, context)
    section = model.embed_section(context, target)
    prompt = model.with_vectors(model.embed_prompt(cond, t))
    assert torch.equal(model(target, t, cond, context, section=section), plain)
    for block in [*model.transformer_blocks, *model.single_transformer_blocks]:
        for name in [n for n, _ in block.named_children() if n.startswith("norm")]:
            setattr(block, name, None)  # the weights can be let go
    got = model(target, t, conditioning([1, 1]), EMPTY, section=section, prompt=prompt)
    assert torch.equal(got, plain)


def test_blocks_may_be_an_iterator():
    class Streamed(nn.ModuleList):
        def __getitem__(self, i):
            raise AssertionError("blocks must be iterated over")

    model, cond = model_of(), conditioning([4])
    target, t = LatentFrames.of(latents(), [5, 6]), torch.ones(1)
    plain = model(target, t, cond, EMPTY)
    model.transformer_blocks = Streamed(iter(model.transformer_blocks))
    model.single_transformer_blocks = Streamed(iter(model.single_transformer_blocks))
    assert torch.equal(model(target, t, cond, EMPTY), plain)


@pytest.mark.parametrize("lengths", [[4, 4], [4, 6]])
def test_blocks_compile_as_one_graph(lengths):
    torch._dynamo.reset()
    model, cond = model_of(), conditioning(lengths)
    target, t = LatentFrames.of(latents(2), [5, 6]), torch.ones(2)
    plain = model(target, t, cond, EMPTY)
    for block in [*model.transformer_blocks, *model.single_transformer_blocks]:
        block.compile(fullgraph=True, backend="aot_eager")
    assert relative(model(target, t, cond, EMPTY), plain) < 1e-6


def test_output_is_fp32_and_last_projection_is_not_rounded():
    model, cond = model_of().bfloat16(), conditioning([4])
    target, t = LatentFrames.of(latents(), [5, 6]), torch.ones(1)
    out = model(target, t, cond, EMPTY)
    assert out.dtype == torch.float32
    assert (out != out.bfloat16().float()).any()


def test_autocast_trains():
    model, cond = model_of().requires_grad_(True), conditioning([4, 6])
    target, t = LatentFrames.of(latents(2), [5, 6]), torch.ones(2)
    with torch.no_grad():
        exact = model(target, t, cond, EMPTY)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(target, t, cond, EMPTY)
    out.square().mean().backward()
    assert out.dtype == torch.float32
    assert relative(out.detach(), exact) < 0.1
    unused = {n for n, p in model.named_parameters() if p.grad is None}
    assert all(n.startswith("clean_x_embedder") for n in unused)


def test_guidance_is_used_as_given():
    """In fp32 10.0 is 10000 to the network; rounded by the caller, 9984 as in the original."""
    model, cond = model_of(), conditioning([4])
    target, t = LatentFrames.of(latents(), [5, 6]), torch.ones(1)
    seen = []
    model.time_text_embed.register_forward_pre_hook(lambda _, args: seen.append(args[2].item()))
    for guidance in (torch.tensor([10.0]), torch.tensor([10.0], dtype=torch.bfloat16)):
        model(target, t, replace(cond, guidance=guidance), EMPTY)
    assert seen == [10000.0, 9984.0]


def test_satisfies_the_protocol():
    backbone: Backbone = model_of()
    assert backbone.dtype == torch.float32


@pytest.mark.parametrize("size", [(5, 6), (4, 7), (3, 3)])
def test_odd_latent_sizes_are_refused(size):
    target = LatentFrames.of(latents(size=size), [0, 1])
    with pytest.raises(InputError, match=f"target.*even.*{size[0]}x{size[1]}"):
        model_of()(target, torch.ones(1), conditioning([4]), EMPTY)


def test_odd_context_size_is_refused():
    context = PackedContext((group("k4", latents(size=(5, 6)), torch.tensor([[0, 1]])),))
    with pytest.raises(InputError, match=r"context group k4.*5x6"):
        model_of()(LatentFrames.of(latents(), [0, 1]), torch.ones(1), conditioning([4]), context)


@pytest.mark.parametrize(
    ("config", "change", "context", "message"),
    [
        (CONFIG, {"guidance": None}, EMPTY, "guidance"),
        (CONFIG, {"text_mask": torch.zeros(1, 9, dtype=torch.bool)}, EMPTY, "prompt"),
        (replace(CONFIG, has_image_proj=False), {}, EMPTY, "image tokens"),
        (CONFIG, {}, "k8", "kernel k8.*context_kernels"),
        (replace(CONFIG, has_clean_x_embedder=False), {"image": None}, "k1", "takes none"),
    ],
)
def test_inputs_the_model_does_not_have(config, change, context, message):
    if isinstance(context, str):
        context = PackedContext((group(context, latents(), torch.tensor([[0, 1]])),))
    cond = replace(conditioning([4]), **change)
    with pytest.raises(InputError, match=message):
        model_of(config)(LatentFrames.of(latents(), [0, 1]), torch.ones(1), cond, context)


@pytest.mark.parametrize("kernel", [(2, 4, 4), (4, 8, 8), (1, 4, 2), (3, 6, 10)])
def test_extra_kernels_start_as_the_paper_has_it(kernel):
    """Nearest-neighbour tiling over the ratio of volumes = the base layer on averaged latents."""
    torch.manual_seed(0)
    base, layer = nn.Conv3d(4, 8, (1, 2, 2), (1, 2, 2)), nn.Conv3d(4, 8, kernel, kernel)
    init_from_patchify(layer, base)
    ratio = (kernel[0], kernel[1] // 2, kernel[2] // 2)
    tiled = F.interpolate(base.weight, scale_factor=ratio, mode="nearest")
    assert torch.equal(layer.weight, tiled / (ratio[0] * ratio[1] * ratio[2]))
    x = torch.randn(1, 4, *(2 * n for n in kernel))
    assert relative(layer(x), base(F.avg_pool3d(x, ratio))) < 1e-6


def test_init_weights_starts_from_silence():
    torch.manual_seed(0)
    model = PackedDiT(replace(CONFIG, context_kernels=("k1", "k2", "k4", "k8")))
    model.init_weights()
    assert all(torch.isfinite(p).all() for p in model.parameters())
    silent = {
        n for n, m in model.named_modules() if isinstance(m, nn.Linear) and not m.weight.any()
    }
    blocks = {
        f"transformer_blocks.{i}.{n}.linear" for i in (0, 1) for n in ("norm1", "norm1_context")
    }
    singles = {f"single_transformer_blocks.{i}.norm.linear" for i in (0, 1)}
    refiner = "context_embedder.token_refiner.refiner_blocks.0.norm_out.linear"
    assert silent == blocks | singles | {refiner, "norm_out.linear", "proj_out"}
    proj_8x: Any = model.get_submodule("clean_x_embedder.proj_8x").weight
    assert torch.allclose(
        proj_8x.sum((2, 3, 4)), model.x_embedder.proj.weight.sum((2, 3, 4)), atol=1e-5
    )
    target = LatentFrames.of(latents(), [0, 1])
    assert not model(target, torch.ones(1), conditioning([4]), EMPTY).any()


def test_ten_steps_from_init_weights_learn():
    torch.manual_seed(0)
    model = PackedDiT(CONFIG)
    model.init_weights()
    target, cond = LatentFrames.of(latents(), [0, 1]), conditioning([4])
    goal = latents(seed=5)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(10):
        loss = F.mse_loss(model(target, torch.ones(1), cond, EMPTY), goal)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_bundled_preset_runs_without_image_and_guidance():
    with torch.device("meta"):
        model = PackedDiT(PRESETS["bundled"])
    assert model.image_projection is None
    assert model.time_text_embed.guidance_embedder is None
    assert 20e6 < sum(p.numel() for p in model.parameters()) < 32e6
