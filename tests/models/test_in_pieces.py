"""Blocks that work on some tokens at a time say what blocks that take all at once say."""

from __future__ import annotations

import copy
import inspect
from dataclasses import fields

import pytest
import torch
from tests.models.dit_cases import Case, relative
from tests.models.test_placed import Setting
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

from recurvid.models.compiled import blocks_of, compile_blocks, fuse_products
from recurvid.models.packed_dit import in_pieces
from recurvid.models.packed_dit.in_pieces import Parts, Pieces
from recurvid.models.packed_dit.model import PackedDiT
from recurvid.models.quantized import quantize
from recurvid.ops.token_pieces import by_tokens


def cut(model: PackedDiT, tokens: int) -> PackedDiT:
    other = copy.deepcopy(model)
    other.pieces = Pieces(tokens)
    return other


def said(setting: Setting, model: PackedDiT) -> torch.Tensor:
    with torch.no_grad():
        target, step = setting.target, setting.timestep(700.0)
        return model(target, step, setting.conditioning, setting.context)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("tokens", [1, 7, 10_000])
@pytest.mark.parametrize("seed", range(3))  # batches of 1 to 3, prompts of several lengths
def test_the_same_but_for_the_order_of_sums(seed: int, tokens: int, fused: bool):
    setting = Setting(seed)
    model = fuse_products(setting.home, on=fused)
    assert relative(said(setting, cut(model, tokens)), said(setting, model)) < 1e-5


@pytest.mark.parametrize("seed", range(3))
def test_one_piece_of_everything_is_the_same_to_the_bit(seed: int):
    """In 16 bits too, where another order of two roundings would show."""
    setting = Setting(seed, torch.bfloat16)
    assert said(setting, cut(setting.home, 10_000)).equal(said(setting, setting.home))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype):
    setting = Setting(4, dtype)
    assert relative(said(setting, cut(setting.home, 9)), said(setting, setting.home)) < 0.03


@pytest.mark.parametrize("seed", range(3))
def test_int8_gives_the_same_bits_in_any_pieces(seed: int):
    """Whole numbers add up to the same in any order; attention sees the same q, k and v."""
    setting = Setting(seed)
    model = copy.deepcopy(setting.home)
    quantize(model, "int8")
    assert said(setting, cut(model, 40)).equal(said(setting, model))


def test_streamed_blocks_work_in_pieces_too():
    setting = Setting(resident=1, slots=2)
    setting.placed.model.pieces = Pieces(11)
    setting.home.pieces = Pieces(11)
    ours, theirs = setting.both(400.0)
    assert ours.equal(theirs)


def test_no_tensor_is_as_wide_as_the_hidden_layer_of_all_tokens():
    """What pieces are for; the model that takes all tokens at once makes such tensors."""
    setting = Setting(5)
    whole = setting.batch * setting.home.config.mlp_width * tokens_of(setting)
    assert largest(setting, setting.home) >= whole
    assert largest(setting, cut(setting.home, 8)) < whole


def tokens_of(setting: Setting) -> int:
    """Of the video, as the first block sees them."""
    seen: list[int] = []
    first = blocks_of(setting.home)[0]
    hook = first.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    said(setting, setting.home)
    hook.remove()
    return seen[0]


class Largest(TorchDispatchMode):
    """Numbers of the largest tensor that was made."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numbers = max(self.numbers, out.numel())
        return out


def largest(setting: Setting, model: PackedDiT) -> int:
    with Largest() as seen:
        said(setting, model)
    return seen.numbers


@pytest.mark.slow
@pytest.mark.parametrize("form", ["auto", "int8"])
def test_compiled_pieces_serve_all_blocks(form: str, monkeypatch: pytest.MonkeyPatch):
    """Six functions, compiled for a piece's length and once more for any."""
    for field in fields(Parts):  # out of the tests' type checks, which would count as one function
        monkeypatch.setattr(in_pieces, field.name, inspect.unwrap(getattr(in_pieces, field.name)))
    setting = Setting(3)
    model = copy.deepcopy(setting.home)
    if form != "auto":
        quantize(model, form)
    counter = CompileCounterWithBackend("eager")
    compiled = cut(model, 16)
    compile_blocks(compiled, backend=counter)
    assert relative(said(setting, compiled), said(setting, cut(model, 16))) < 1e-4
    assert 6 <= counter.frame_count <= 12
    before = counter.frame_count
    said(setting, compiled)
    assert counter.frame_count == before


def test_pieces_fill_what_is_theirs():
    whole = torch.zeros(1, 7, 2)
    seen: list[slice] = []

    def work(part: slice) -> tuple[torch.Tensor]:
        seen.append(part)
        return (torch.full((1, part.stop - part.start, 2), float(len(seen))),)

    by_tokens(work, [whole], 2, first=2)
    assert [(p.start, p.stop) for p in seen] == [(0, 1), (1, 3), (3, 5)]
    assert whole[0, :, 0].tolist() == [0, 0, 1, 2, 2, 3, 3]


def test_case_has_blocks_of_both_kinds():
    config = Case(5).config
    assert config.num_layers
    assert config.num_single_layers
