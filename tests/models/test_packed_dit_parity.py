"""PackedDiT against diffusers' HunyuanVideoFramepackTransformer3DModel, fp32, random weights."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from dit_cases import Case, diffusers_model, group, randomise, relative
from dit_reference import reference
from torch import nn

from recurvid.conditioning import Conditioning
from recurvid.latents import LatentFrames
from recurvid.models.packed_dit.config import PRESETS
from recurvid.models.packed_dit.model import PackedDiT
from recurvid.packing.pack import PackedContext

pytestmark = pytest.mark.parity
SEEDS = range(24)


def pair(case: Case, *, sharp: bool = True) -> tuple[PackedDiT, Any]:
    theirs = case.diffusers_model(sharp=sharp)
    ours = PackedDiT(case.config)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def test_full_size_state_dict_equals_diffusers():
    config = {k: v for k, v in PRESETS["13b"].to_dict().items() if k != "context_kernels"}
    with torch.device("meta"):
        ours = PackedDiT(PRESETS["13b"])
        theirs = diffusers_model(config)
    shapes = [{k: tuple(v.shape) for k, v in m.state_dict().items()} for m in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert sum(p.numel() for p in ours.parameters()) == 12_874_314_816


def test_cases_cover_what_they_should():
    cases = [Case(seed) for seed in SEEDS]
    assert any(c.size[0] % 4 or c.size[1] % 4 for c in cases)
    assert any(c.size[0] % 8 and c.size[0] % 4 == 0 for c in cases)
    assert {len(c.lengths) for c in cases} == {1, 2, 3}
    assert any(len(set(c.lengths)) > 1 for c in cases)
    assert any(len(c.lengths) > 1 and len(set(c.lengths)) == 1 for c in cases)
    assert {0} < {c.image_tokens for c in cases}
    assert {c.config.guidance_embeds for c in cases} == {True, False}
    for name in ("num_attention_heads", "num_layers", "num_refiner_layers", "rope_axes_dim"):
        assert len({getattr(c.config, name) for c in cases}) > 1


@pytest.mark.parametrize("seed", SEEDS)
def test_output_equals_diffusers(seed):
    case = Case(seed)
    (ours, theirs), x = pair(case), case.inputs()
    with torch.no_grad():
        assert relative(case.run_ours(ours, x), case.run_diffusers(theirs, x)) < 1e-5


@pytest.mark.parametrize("seed", SEEDS)
def test_gradients_equal_diffusers(seed):
    # Not sharp: there fp32 itself is 1e-5 away from fp64, in both implementations.
    case = Case(seed)
    ours, theirs = pair(case, sharp=False)
    found = []
    runs: tuple[tuple[Any, Any], ...] = ((ours, case.run_ours), (theirs, case.run_diffusers))
    for model, run in runs:
        x = case.inputs()
        cond = x.conditioning
        wanted = {**x.latents, "text": cond.text, "pooled": cond.pooled, "image": cond.image}
        for value in wanted.values():
            value.requires_grad_()
        out = run(model, x)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed))
        (out * weight).sum().backward()
        grads = {k: v.grad for k, v in wanted.items()}
        found.append(grads | {k: p.grad for k, p in model.named_parameters()})
    assert found[0].keys() == found[1].keys()
    expected = {k: v for k, v in found[1].items() if v is not None}
    assert all(found[0][k] is None for k in found[1].keys() - expected.keys())
    whole = torch.cat([v.flatten() for v in expected.values()]).norm().item()
    for name, value in expected.items():
        # The second term is for gradients that are zero but for rounding: the refiner's k biases,
        # which softmax does not see.
        error = (found[0][name] - value).norm().item()
        assert error <= 1e-5 * value.norm().item() + 1e-8 * whole, name


@pytest.mark.parametrize("seed", range(4))
def test_an_index_off_by_one_is_seen(seed):
    case = Case(seed)
    ours, x = PackedDiT(case.config), case.inputs()
    torch.manual_seed(seed)
    randomise(ours)
    with torch.no_grad():
        before = case.run_ours(ours, x)
        for name in case.index:
            shifted = Case(seed)
            shifted.index[name] = [i + 1 for i in case.index[name]]
            assert relative(shifted.run_ours(ours, x), before) > 1e-3, name


KERNELS = ("k1", "k2", "k4", "k8", "k16", "k1h4w2", "k2h4w2", "k3h6w10", "k4h4w4", "k16h2w2")


def beyond(seed: int, *, image_proj: bool = True) -> tuple[Case, PackedDiT, Any, dict]:
    """A pair of models with patchify layers for all of KERNELS; (16, 32, 32) has none."""
    case = Case(seed)
    fields = {**case.config.to_dict(), "has_image_proj": image_proj, "context_kernels": KERNELS}
    config = type(case.config).from_dict(fields)
    case.config = config
    theirs = case.diffusers_model()
    convs = {
        (1, 2, 2): theirs.clean_x_embedder.proj,
        (2, 4, 4): theirs.clean_x_embedder.proj_2x,
        (4, 8, 8): theirs.clean_x_embedder.proj_4x,
    }
    extra = {
        (8, 16, 16): "proj_8x",
        (1, 4, 2): "proj_1x4x2",
        (2, 4, 2): "proj_2x4x2",
        (3, 6, 10): "proj_3x6x10",
        (4, 4, 4): "proj_4x4x4",
        (16, 2, 2): "proj_16x2x2",
    }
    state = theirs.state_dict()
    for kernel, name in extra.items():
        conv = nn.Conv3d(config.in_channels, config.width, kernel, kernel)
        randomise(conv)
        convs[kernel] = conv
        state |= {f"clean_x_embedder.{name}.{k}": v for k, v in conv.state_dict().items()}
    ours = PackedDiT(config)
    ours.load_state_dict(state)
    return case, ours, theirs, convs


@pytest.mark.parametrize("image_proj", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_what_diffusers_cannot_run(seed, image_proj):
    """Any kernel, any subset of groups, a size per group, indices per sample, no image tokens."""
    case, ours, theirs, convs = beyond(seed, image_proj=image_proj)
    rng, x = random.Random(seed), case.inputs()
    batch, channels = len(case.lengths), case.config.in_channels

    def frames(count: int, size: tuple[int, int]) -> LatentFrames:
        index = torch.tensor([[rng.randint(0, 60) for _ in range(count)] for _ in range(batch)])
        return LatentFrames(torch.randn(batch, channels, count, *size), index)

    names = rng.sample(KERNELS, rng.randint(0, 4)) + (["k16"] if seed % 3 == 0 else [])
    groups = []
    for name in dict.fromkeys(names):
        size = case.size if rng.random() < 0.8 else (2, 4)
        past = frames(rng.randint(1, 19), size)
        groups.append(group(name, past.data, past.index))
    cond = x.conditioning
    if not image_proj or seed % 2:
        cond = Conditioning(cond.text, cond.text_mask, cond.pooled, None, cond.guidance)
    target = frames(case.frames["g"], case.size)
    pairs = [((g.kernel.t, g.kernel.h, g.kernel.w), g.frames) for g in groups]
    with torch.no_grad():
        expected = reference(theirs, convs, target, x.timestep, cond, pairs)
        got = ours(target, x.timestep, cond, PackedContext(tuple(groups)))
    assert relative(got, expected) < 1e-5


@pytest.mark.parametrize("seed", range(6))
def test_reference_equals_diffusers_where_both_run(seed):
    case, _, theirs, convs = beyond(seed)
    x = case.inputs()
    frames = {k: LatentFrames.of(x.latents[k], case.index[k]) for k in case.index}
    pairs = [((4, 8, 8), frames["k4"]), ((2, 4, 4), frames["k2"]), ((1, 2, 2), frames["k1"])]
    with torch.no_grad():
        got = reference(theirs, convs, frames["g"], x.timestep, x.conditioning, pairs)
        assert relative(got, case.run_diffusers(theirs, x)) < 1e-5


def test_bf16_error_at_most_a_tenth_above_diffusers():
    errors = []
    for seed in range(12):
        case = Case(seed)
        ours, theirs = pair(case)
        for model in (ours, theirs):  # weights that bf16 can say, as released ones are
            model.to(torch.bfloat16).float()
        x = case.inputs(torch.bfloat16)
        with torch.no_grad():
            exact = case.inputs(torch.bfloat16)
            exact.latents = {k: v.float() for k, v in exact.latents.items()}
            exact.conditioning = exact.conditioning.to(device="cpu", dtype=torch.float32)
            truth = case.run_diffusers(theirs, exact)
            mine = relative(case.run_ours(ours.bfloat16(), x), truth)
            errors.append((mine, relative(case.run_diffusers(theirs.bfloat16(), x), truth)))
    mine, diffusers = (sum(column) for column in zip(*errors, strict=True))
    assert 1e-4 < mine <= 1.1 * diffusers
