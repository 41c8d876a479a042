"""Prompt embeddings against diffusers' pipeline, with tiny LLaMA and CLIP."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.encoders.tiny_encoders import (
    PROMPT,
    save_llama_tokenizer,
    save_text_encoders,
    with_outer_level,
)
from torch import Tensor

from recurvid.encoders.encode import PromptEncoder, TextFiles
from recurvid.encoders.text import VIDEO_TEMPLATE, load_clip, load_llama

pytestmark = pytest.mark.parity

PROMPTS = [PROMPT, "a cat runs !", "the man " * 200, "unknown {braces} words"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> TextFiles:
    return save_text_encoders(tmp_path_factory.mktemp("hunyuan"))


@pytest.fixture(scope="module")
def pipeline() -> Any:
    from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_video_framepack

    return pipeline_hunyuan_video_framepack


def reference(pipeline: Any, files: TextFiles, prompt: str) -> tuple[Tensor, Tensor, Tensor]:
    """What HunyuanVideoFramepackPipeline.encode_prompt gives: real tokens (l, d), mask, pooled."""
    from transformers import CLIPTextModel, CLIPTokenizer, LlamaModel, PreTrainedTokenizerFast

    owner = SimpleNamespace(
        text_encoder=LlamaModel.from_pretrained(files.llama),
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_file=str(files.llama_tokenizer / "tokenizer.json"),
            pad_token="<pad>",
            padding_side="right",
        ),
        text_encoder_2=CLIPTextModel.from_pretrained(files.clip),
        tokenizer_2=CLIPTokenizer.from_pretrained(files.clip_tokenizer),
    )
    cls, cpu = pipeline.HunyuanVideoFramepackPipeline, torch.device("cpu")
    template = pipeline.DEFAULT_PROMPT_TEMPLATE
    with torch.no_grad():
        text, mask = cls._get_llama_prompt_embeds(owner, prompt, template, device=cpu)
        pooled = cls._get_clip_prompt_embeds(owner, prompt, device=cpu)
    return text, mask, pooled


def test_the_template_is_the_pipelines(pipeline: Any):
    assert VIDEO_TEMPLATE("{}") == pipeline.DEFAULT_PROMPT_TEMPLATE["template"]
    assert VIDEO_TEMPLATE.crop == pipeline.DEFAULT_PROMPT_TEMPLATE["crop_start"]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_embeddings_equal_the_pipelines(pipeline: Any, files: TextFiles, prompt: str):
    text, mask, pooled = reference(pipeline, files, prompt)
    got = PromptEncoder(files, dtype=torch.float32)([prompt])
    length = int(mask.sum())
    assert 0 < length <= 256
    assert got.text.shape == (1, 512, 32)
    assert got.mask.dtype is torch.bool
    assert got.mask[0].tolist() == [True] * length + [False] * (512 - length)
    assert torch.allclose(got.text[:, :length], text[:, :length], rtol=1e-5, atol=1e-5)
    assert got.text[:, length:].abs().max() == 0
    assert torch.allclose(got.pooled, pooled, rtol=1e-5, atol=1e-5)
    # Any other layer, or a crop that is off by one, would be seen.
    assert not torch.allclose(text[:, : length - 1], text[:, 1:length], atol=1e-2)


def test_the_longest_prompt_fills_256_tokens(files: TextFiles):
    got = PromptEncoder(files, dtype=torch.float32)(["the man " * 200])
    assert int(got.mask.sum()) == 256


def test_a_batch_equals_its_single_runs_in_bits(files: TextFiles):
    encoder = PromptEncoder(files, dtype=torch.float32)
    batch = encoder(PROMPTS[:2])
    for number, prompt in enumerate(PROMPTS[:2]):
        single = encoder([prompt])
        assert torch.equal(batch.text[number], single.text[0])
        assert torch.equal(batch.mask[number], single.mask[0])
        assert torch.equal(batch.pooled[number], single.pooled[0])


def test_the_hidden_state_is_the_output_of_the_last_layer_but_two(files: TextFiles):
    """By running the first two of four layers alone, without the final norm."""
    from transformers import LlamaModel

    model = LlamaModel.from_pretrained(files.llama)
    model.layers = model.layers[:-2]
    model.norm = torch.nn.Identity()  # type: ignore
    encoder = load_llama(files.llama, files.llama_tokenizer, dtype=torch.float32)
    ids = encoder._tokenizer(VIDEO_TEMPLATE(PROMPT))
    with torch.no_grad():
        expected = model(torch.tensor([ids])).last_hidden_state[0, 95:]
    assert torch.allclose(encoder(PROMPT), expected, rtol=1e-5, atol=1e-5)


def test_begin_of_text_is_there_whatever_the_tokenizer_adds(files: TextFiles, tmp_path: Path):
    save_llama_tokenizer(tmp_path, adds_begin=False)
    ours = load_llama(files.llama, tmp_path, dtype=torch.float32)
    usual = load_llama(files.llama, files.llama_tokenizer, dtype=torch.float32)
    assert torch.equal(ours(PROMPT), usual(PROMPT))


@pytest.mark.parametrize("outer", ["", "text_model."])
def test_clip_files_of_every_age(outer: str, tmp_path: Path):
    """transformers 5.6 dropped a level of CLIP's names; files have either."""
    old = save_text_encoders(tmp_path / "a", seed=3)
    usual = load_clip(old.clip, old.clip_tokenizer, dtype=torch.float32)(PROMPT)
    with_outer_level(old.clip, outer)
    got = load_clip(old.clip, old.clip_tokenizer, dtype=torch.float32)(PROMPT)
    assert torch.equal(got, usual)


def test_llama_with_and_without_its_outer_level(tmp_path: Path):
    files = save_text_encoders(tmp_path, seed=4)
    usual = load_llama(files.llama, files.llama_tokenizer, dtype=torch.float32)(PROMPT)
    for outer in ("", "model."):
        with_outer_level(files.llama, outer)
        again = load_llama(files.llama, files.llama_tokenizer, dtype=torch.float32)(PROMPT)
        assert torch.equal(again, usual)
