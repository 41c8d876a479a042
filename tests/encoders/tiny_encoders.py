"""Tiny text and image encoders from the real classes, saved in the layouts that people have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from recurvid.encoders.encode import TextFiles
from recurvid.encoders.text import VIDEO_TEMPLATE

WORDS = ["a", "the", "girl", "dances", "gracefully", "with", "clear", "movements", "full", "of"]
WORDS += ["charm", "man", "cat", "runs", ",", ".", "!"]
PROMPT = "the girl dances gracefully , with clear movements , full of charm ."
SPECIAL = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<pad>"]


def save_llama_tokenizer(folder: Path, *, adds_begin: bool = True) -> None:
    """A word-level tokenizer.json that knows LLaMA 3's special tokens and the template's words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = re.findall(r"\w+|[^\w\s]", VIDEO_TEMPLATE("").replace("<|", " ").replace("|>", " "))
    vocabulary = {w: i for i, w in enumerate(dict.fromkeys(["<unk>", *SPECIAL, *words, *WORDS]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore
    tokenizer.add_special_tokens(SPECIAL)
    if adds_begin:
        begin = "<|begin_of_text|>"
        tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore
            single=f"{begin} $A", special_tokens=[(begin, vocabulary[begin])]
        )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<|begin_of_text|>", "pad_token": "<pad>", "padding_side": "right"}
    config |= {"tokenizer_class": "LlamaTokenizerFast", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def tiny_llama(seed: int = 0) -> Any:
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=200,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
    )
    return LlamaModel(config).eval()


def save_clip_tokenizer(folder: Path) -> None:
    """vocab.json and merges.txt with single letters and no merges but one."""
    letters = [chr(c) for c in range(33, 127)]
    pieces = [*letters, *[f"{c}</w>" for c in letters], "th", "the</w>"]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nth e</w>\n")
    config = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 77,
        "tokenizer_class": "CLIPTokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def tiny_clip(seed: int = 0) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=192,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=3,
        projection_dim=24,
        bos_token_id=190,
        eos_token_id=191,
        pad_token_id=191,
    )
    return CLIPTextModel(config).eval()


def tiny_siglip(seed: int = 0) -> Any:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(seed)
    config = SiglipVisionConfig(
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=3,
        image_size=42,
        patch_size=14,
        hidden_act="gelu_pytorch_tanh",
    )
    return SiglipVisionModel(config).eval()


def save_feature_extractor(folder: Path, size: int = 42) -> None:
    """preprocessor_config.json as flux_redux_bfl has it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "do_convert_rgb": None,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "SiglipImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": size, "width": size},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(config))


def save_text_encoders(root: Path, seed: int = 0) -> TextFiles:
    """The four folders of hunyuanvideo-community/HunyuanVideo that text comes from."""
    tiny_llama(seed).save_pretrained(root / "text_encoder")
    tiny_clip(seed).save_pretrained(root / "text_encoder_2")
    save_llama_tokenizer(root / "tokenizer")
    save_clip_tokenizer(root / "tokenizer_2")
    return TextFiles(
        llama=root / "text_encoder",
        llama_tokenizer=root / "tokenizer",
        clip=root / "text_encoder_2",
        clip_tokenizer=root / "tokenizer_2",
    )


def with_outer_level(folder: Path, outer: str) -> None:
    """Rewrite a saved model with (``text_model.``) or without ("") the level of its names."""
    path = folder / "model.safetensors"
    flat = {
        re.sub(r"^(text_model|vision_model|model)\.", "", k): v for k, v in load_file(path).items()
    }
    save_file({outer + k: v for k, v in flat.items()}, path, metadata={"format": "pt"})
