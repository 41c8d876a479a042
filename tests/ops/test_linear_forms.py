from __future__ import annotations

import pytest
import torch
from torch import nn

from recurvid.errors import ComponentError
from recurvid.ops.linear import pieces
from recurvid.ops.linear.forms import FORMS, convert, form_named, size_of
from recurvid.ops.linear.layers import EightBitLinear, several
from recurvid.ops.linear.rounding import (
    GROUP,
    INT4,
    NF4,
    from_codebook,
    to_codebook,
    to_e4m3,
    to_int8,
)

# Largest relative L2 error of a layer on normal numbers, and what it must at least be: a form
# that is exact does not round.
ERRORS = {
    "int8": (0.005, 0.015),
    "fp8": (0.02, 0.045),
    "int8-weights": (0.003, 0.011),
    "nf4": (0.06, 0.11),
    "int4": (0.07, 0.14),
}
CPU = torch.device("cpu")


def linear(k: int = 256, n: int = 96, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(k, n, bias=bias).requires_grad_(False)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def test_int8_on_numbers_written_out():
    codes, scale = to_int8(torch.tensor([[1.27, -0.64, 0.0], [0.0, 0.0, 0.0]]))
    assert codes.tolist() == [[127, -64, 0], [0, 0, 0]]
    assert scale[0].item() == pytest.approx(0.01)


def test_e4m3_on_numbers_written_out():
    # 448 is the largest; between 256 and 448 the steps are 32, from 16 to 32 they are 2.
    codes, scale = to_e4m3(torch.tensor([[448.0, 300.0, -18.9, 0.0]]))
    assert codes.float().tolist() == [[448.0, 288.0, -18.0, 0.0]]
    assert scale.item() == pytest.approx(1.0)


def test_nf4_are_the_quantiles_of_the_paper():
    # QLoRA, appendix E: quantiles of N(0, 1), eight above zero and seven below, over the largest.
    offset = 0.9677083
    above = torch.special.ndtri(torch.linspace(offset, 0.5, 9, dtype=torch.float64)[:-1])
    below = -torch.special.ndtri(torch.linspace(offset, 0.5, 8, dtype=torch.float64)[:-1])
    expected = torch.cat([above, below, torch.zeros(1)]).sort().values
    assert torch.allclose(
        torch.tensor(NF4, dtype=torch.float64), expected / expected.max(), atol=1e-6
    )


@pytest.mark.parametrize("book", [NF4, INT4], ids=["nf4", "int4"])
def test_codebook_takes_the_nearest_value(book):
    weight = torch.randn(5, 2 * GROUP, generator=torch.Generator().manual_seed(0))
    packed, scale = to_codebook(weight, book)
    assert packed.shape == (5, GROUP)
    assert packed.dtype == torch.uint8
    back = from_codebook(packed, scale, torch.tensor(book), torch.float32)
    choices = torch.tensor(book) * scale.float().repeat_interleave(GROUP, 1)[..., None]
    nearest = (choices - weight[..., None]).abs().amin(-1)
    assert torch.allclose((back - weight).abs(), nearest, atol=1e-6)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_layer_errs_by_its_bits(name, dtype):
    layer = linear()
    x = torch.randn(2, 40, 256, generator=torch.Generator().manual_seed(1)).to(dtype)
    out = FORMS[name].make(layer)(x)
    assert out.dtype == dtype
    least, most = ERRORS[name]
    assert least < relative(out, layer(x.float())) < most


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("rows", [1, 16, 17, 33])
def test_any_number_of_rows_and_no_bias(name, rows):
    layer = linear(128, 40, bias=False)
    x = torch.randn(rows, 128, generator=torch.Generator().manual_seed(2))
    out = FORMS[name].make(layer)(x)
    assert out.shape == (rows, 40)
    assert relative(out, layer(x)) < 1.5 * ERRORS[name][1]


@pytest.mark.parametrize("name", FORMS)
def test_memory_is_what_the_form_says(name):
    layer = linear(1024, 256, bias=False)
    made = FORMS[name].make(layer)
    bits = 8 * size_of(made) / layer.weight.numel()
    assert bits == pytest.approx(FORMS[name].bits, rel=0.02)


@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_a_loud_token_does_not_drown_the_others(name):
    layer = linear()
    x = torch.randn(32, 256, generator=torch.Generator().manual_seed(4))
    quiet = FORMS[name].make(layer)(x)[1:]
    x[0] *= 1e4
    assert torch.equal(FORMS[name].make(layer)(x)[1:], quiet)


@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_zeros_give_the_bias(name):
    layer = linear()
    out = FORMS[name].make(layer)(torch.zeros(20, 256))
    assert torch.allclose(out, layer.bias.expand(20, -1))


def test_layers_that_share_an_input_round_it_once():
    layers = [FORMS["int8"].make(linear(n=n)) for n in (96, 32)]
    calls: list[int] = []

    def counted(x):
        calls.append(1)
        return to_int8(x)

    for layer in layers:
        assert isinstance(layer, EightBitLinear)
        layer.rounded = counted
    x = torch.randn(2, 20, 256)
    shared = several(x, *layers)
    assert len(calls) == 1
    assert all(torch.equal(y, layer(x)) for y, layer in zip(shared, layers, strict=True))


def test_layers_of_several_forms_take_one_input():
    layers = [FORMS[name].make(linear()) for name in ("int8", "fp8", "nf4")] + [linear()]
    x = torch.randn(20, 256)
    for y, layer in zip(several(x, *layers), layers, strict=True):
        assert torch.equal(y, layer(x))


def test_convert_replaces_what_is_chosen_and_says_so():
    model = nn.Sequential(linear(128, 64), nn.Sequential(linear(64, 64), nn.ReLU()), linear(64, 8))
    done = convert(model, FORMS["int8"], lambda name: name != "2")
    assert done.names == ("0", "1.0")
    assert done.kept == ("2",)
    assert isinstance(model[0], EightBitLinear)
    assert type(model[2]) is nn.Linear
    assert done.bytes_after < 0.4 * done.bytes_before


def test_convert_keeps_what_a_form_cannot_divide():
    model = nn.Sequential(linear(100, 64))
    assert convert(model, FORMS["nf4"], lambda _: True).kept == ("0",)


def test_names_that_are_no_form():
    with pytest.raises(ComponentError, match=r"'int3' are unknown; known: int8, fp8"):
        form_named("int3", CPU)


def test_a_device_that_has_no_such_product_is_told():
    with pytest.raises(ComponentError, match="mps has no fp8 products"):
        form_named("fp8", torch.device("mps"))
    with pytest.raises(ComponentError, match="no int8 product on mps"):
        form_named("int8", torch.device("mps"))
    assert form_named("nf4", torch.device("mps")) is FORMS["nf4"]


def test_old_cards_are_sent_to_int8(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: (8, 6))
    with pytest.raises(ComponentError, match=r"needs compute capability 8.9, this card has 8.6"):
        form_named("fp8", torch.device("cuda"))
    assert form_named("int8", torch.device("cuda")) is FORMS["int8"]


@pytest.mark.parametrize("name", ["int8", "fp8", "int8-weights"])
def test_in_pieces_to_the_same_bits(name: str, monkeypatch: pytest.MonkeyPatch):
    """Neither rounding nor products depend on how many rows are worked on at once."""
    x = torch.randn(3, 211, 48)
    whole = FORMS[name].make(linear(48, 40))
    expected = whole(x)
    monkeypatch.setattr(pieces, "CACHE", 48 * 50)
    monkeypatch.setattr(pieces, "CARD", 48 * 90)
    assert len(pieces.pieces(633, 48)) == 8
    in_parts = FORMS[name].make(linear(48, 40))
    assert torch.equal(in_parts.state_dict()["weight"], whole.state_dict()["weight"])
    assert torch.equal(in_parts(x), expected)


def test_pieces_cover_everything_once():
    for rows, width, most in ((1, 9, 4), (7, 10, 20), (100, 3, 50), (0, 5, 5), (64, 1, 64)):
        parts = pieces.pieces(rows, width, most)
        assert [i for part in parts for i in range(rows)[part]] == list(range(rows))
        lengths = [part.stop - part.start for part in parts]
        assert max(lengths) - min(lengths) <= 1
