"""Key maps: both directions, strict, and fitting the libraries' own modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tests.checkpoints.layouts import clip_state, llama_state, siglip_state
from torch import Tensor

from recurvid.checkpoints.checkpoint import Checkpoint
from recurvid.checkpoints.dialects import CLIP_TEXT, LLAMA_TEXT, SIGLIP_VISION, flattened
from recurvid.checkpoints.formats import open_checkpoint
from recurvid.checkpoints.keymap import IDENTITY, Drop, Fuse, KeyMap, Rename, Split
from recurvid.errors import CheckpointError


class InMemory:
    """A Checkpoint of given tensors."""

    def __init__(self, tensors: dict[str, Tensor]):
        self.tensors = tensors
        self.metadata: dict[str, str] = {}

    def keys(self) -> tuple[str, ...]:
        return tuple(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self.tensors[name].dtype

    def tensor(self, name: str) -> Tensor:
        return self.tensors[name]

    def file_of(self, name: str) -> Path:
        return Path("memory.safetensors")


def read(checkpoint: Checkpoint) -> dict[str, Tensor]:
    names = checkpoint.keys()
    values = {name: checkpoint.tensor(name) for name in names}
    assert {n: tuple(v.shape) for n, v in values.items()} == {n: checkpoint.shape(n) for n in names}
    assert {n: v.dtype for n, v in values.items()} == {n: checkpoint.dtype(n) for n in names}
    return values


#: The shape of HunyuanVideo's original naming, small.
ORIGINAL = KeyMap(
    (
        Split(
            "double_blocks.{n}.img_attn_qkv.{kind}",
            tuple(f"blocks.{{n}}.attn.to_{part}.{{kind}}" for part in "qkv"),
            (1, 1, 1),
        ),
        Split("single_blocks.{n}.linear1.{kind}",
              ("single.{n}.q.{kind}", "single.{n}.k.{kind}", "single.{n}.v.{kind}",
               "single.{n}.mlp.{kind}"), (1, 1, 1, 4)),
        Rename("final.adaLN.{kind}", "norm_out.linear.{kind}", swapped=True),
        Rename("img_in.{rest}", "x_embedder.{rest}"),
    )
)  # fmt: skip


def original(blocks: int) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {
        "final.adaLN.weight": torch.randn(8, 4), "final.adaLN.bias": torch.randn(8),
        "img_in.proj.weight": torch.randn(4, 2, 1, 2, 2),
    }  # fmt: skip
    for n in range(blocks):
        tensors[f"double_blocks.{n}.img_attn_qkv.weight"] = torch.randn(12, 4)
        tensors[f"double_blocks.{n}.img_attn_qkv.bias"] = torch.randn(12)
        tensors[f"single_blocks.{n}.linear1.weight"] = torch.randn(28, 4)
    return tensors


def test_split_values_written_out() -> None:
    value = torch.arange(12.0)
    mapped = read(ORIGINAL.apply(InMemory({"double_blocks.10.img_attn_qkv.bias": value})))
    assert {name: tensor.tolist() for name, tensor in mapped.items()} == {
        "blocks.10.attn.to_q.bias": [0, 1, 2, 3],
        "blocks.10.attn.to_k.bias": [4, 5, 6, 7],
        "blocks.10.attn.to_v.bias": [8, 9, 10, 11],
    }


def test_uneven_split_and_swap_written_out() -> None:
    mapped = read(
        ORIGINAL.apply(
            InMemory({"single_blocks.0.linear1.bias": torch.arange(14.0),
                      "final.adaLN.bias": torch.arange(4.0)})
        )
    )  # fmt: skip
    assert mapped["single.0.q.bias"].tolist() == [0, 1]
    assert mapped["single.0.v.bias"].tolist() == [4, 5]
    assert mapped["single.0.mlp.bias"].tolist() == [6, 7, 8, 9, 10, 11, 12, 13]
    assert mapped["norm_out.linear.bias"].tolist() == [2, 3, 0, 1]


@settings(max_examples=30, deadline=None)
@given(blocks=st.integers(0, 12), order=st.randoms(use_true_random=False))
def test_there_and_back(blocks: int, order: Any) -> None:
    tensors = original(blocks)
    native = read(ORIGINAL.apply(InMemory(tensors)))
    names = list(native)
    order.shuffle(names)  # the order of names in a file must not matter for fusing
    back = read(ORIGINAL.reversed().apply(InMemory({name: native[name] for name in names})))
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert ORIGINAL.reversed().reversed() == ORIGINAL


def test_both_lists_are_told_shortened() -> None:
    tensors = {f"stranger.{n}": torch.ones(1) for n in range(9)} | original(1)
    native = {"x_embedder.proj.weight": (4, 2, 1, 2, 2), "lost.weight": (1,)}
    with pytest.raises(CheckpointError) as caught:
        ORIGINAL.apply(InMemory(tensors), native)
    message = str(caught.value)
    assert "not expected: stranger.0, stranger.1, stranger.2 and" in message
    assert "missing: lost.weight" in message
    assert "\n" not in message
    assert len(message) < 300


def test_identity_is_strict_too() -> None:
    tensors = {"a": torch.ones(2)}
    assert read(IDENTITY.apply(InMemory(tensors), {"a": (2,)})).keys() == {"a"}
    with pytest.raises(CheckpointError, match="missing: b"):
        IDENTITY.apply(InMemory(tensors), {"a": (2,), "b": (2,)})
    with pytest.raises(CheckpointError, match="not expected: a"):
        IDENTITY.apply(InMemory(tensors), {})
    with pytest.raises(CheckpointError, match=r"tensor a is \[2\], the model needs \[3\]"):
        IDENTITY.apply(InMemory(tensors), {"a": (3,)})


@pytest.mark.parametrize(
    ("rules", "tensors", "reason"),
    [
        ((Split("a", ("b", "c"), (1, 1)),), {"a": (3,)}, r"a \[3\] does not divide"),
        ((Split("a", ("b", "c"), (1, 1)),), {"a": ()}, "does not divide"),
        ((Fuse(("a", "b"), "c", (1, 1)),), {"a": (2,)}, "missing: c"),
        ((Fuse(("a", "b"), "c", (1, 1)),), {"a": (2,), "b": (3,)}, "do not fuse into c"),
        ((Fuse(("a", "b"), "c", (1, 1)),), {"a": (2, 1), "b": (2, 2)}, "do not fuse into c"),
        ((Rename("a", "b", swapped=True),), {"a": (3,)}, "no two halves"),
        ((Rename("x.{r}", "{r}"), IDENTITY.rules[0]), {"a": (1,), "x.a": (1,)}, "are both a"),
    ],
)
def test_what_a_rule_cannot_do(
    rules: Any, tensors: dict[str, tuple[int, ...]], reason: str
) -> None:
    with pytest.raises(CheckpointError, match=reason):
        KeyMap(rules).apply(InMemory({name: torch.ones(shape) for name, shape in tensors.items()}))


def test_drop_is_consumed_and_rules_are_tried_in_order() -> None:
    keymap = KeyMap((Drop("lm_head.{rest}"), Rename("{name}", "x.{name}")))
    mapped = keymap.apply(InMemory({"lm_head.weight": torch.ones(1), "a": torch.ones(1)}))
    assert mapped.keys() == ("x.a",)
    assert keymap.reversed().rules == (Rename("x.{name}", "{name}"),)


def test_numbers_match_numbers_only() -> None:
    keymap = KeyMap((Rename("b.{n}.w", "c.{n}.w"),))
    with pytest.raises(CheckpointError, match=r"not expected: b\.x\.w"):
        keymap.apply(InMemory({"b.x.w": torch.ones(1)}))
    with pytest.raises(CheckpointError, match="not expected: bb0bw"):
        keymap.apply(InMemory({"bb0bw": torch.ones(1)}))


def test_values_stay_on_the_map(tmp_path: Path) -> None:
    """Renames and splits are views of the file, not copies."""
    save_file({"a.qkv": torch.arange(6.0)}, tmp_path / "w.safetensors")
    inner = open_checkpoint(tmp_path / "w.safetensors")
    mapped = KeyMap((Split("a.qkv", ("q", "k", "v"), (1, 1, 1)),)).apply(inner)
    assert mapped.tensor("k").tolist() == [2, 3]
    assert mapped.tensor("k").data_ptr() == inner.tensor("a.qkv").data_ptr() + 8


@pytest.mark.parity
class TestLibraries:
    """The dialects fill transformers' modules exactly, whichever version is installed."""

    def check(self, module: torch.nn.Module, dialect: KeyMap, published: dict[str, Tensor]) -> None:
        state = {n: v for n, v in module.state_dict().items() if not n.endswith("position_ids")}
        expected = {name: tuple(value.shape) for name, value in state.items()}
        levels = {name.split(".")[0] for name in expected}
        if levels <= {"text_model", "vision_model"}:  # transformers < 5.6
            bare = {name.split(".", 1)[1]: shape for name, shape in expected.items()}
        else:
            bare = expected
        mapped = read(dialect.apply(InMemory(published), bare))
        assert mapped.keys() == bare.keys()
        assert len(mapped) > 10

    def test_clip(self) -> None:
        from transformers import CLIPTextConfig, CLIPTextModel

        config, state = clip_state()
        extra = {
            "text_model.embeddings.position_ids": torch.arange(77)[None],
            "text_projection.weight": torch.ones(2, 2),
            "logit_scale": torch.tensor(1.0),
        }
        module = CLIPTextModel(CLIPTextConfig(**config))
        self.check(module, CLIP_TEXT, state | extra)

    def test_clip_both_ways(self) -> None:
        _, state = clip_state()
        bare = read(CLIP_TEXT.apply(InMemory(state)))
        assert not any(name.startswith("text_model.") for name in bare)
        back = read(CLIP_TEXT.reversed().apply(InMemory(bare)))
        assert back.keys() == state.keys()
        assert all(torch.equal(back[name], state[name]) for name in state)

    def test_siglip(self) -> None:
        from transformers import SiglipVisionConfig, SiglipVisionModel

        config, state = siglip_state()
        extra = {"logit_scale": torch.ones(1), "text_model.head.weight": torch.ones(1)}
        self.check(SiglipVisionModel(SiglipVisionConfig(**config)), SIGLIP_VISION, state | extra)

    def test_llama_of_comfy(self) -> None:
        from transformers import LlamaConfig, LlamaModel

        config, state = llama_state()
        published = {f"model.{name}": value for name, value in state.items()}
        published |= {"lm_head.weight": torch.ones(600, 32),
                      "tokenizer_json": torch.zeros(8, dtype=torch.uint8)}  # fmt: skip
        self.check(LlamaModel(LlamaConfig(**config)), LLAMA_TEXT, published)

    def test_with_and_without_the_level(self) -> None:
        _, state = clip_state()
        bare = read(CLIP_TEXT.apply(InMemory(state)))
        for tensors in (state, bare):
            found = read(flattened(InMemory(tensors), CLIP_TEXT))
            assert found.keys() == bare.keys()
            assert all(torch.equal(found[name], bare[name]) for name in bare)
