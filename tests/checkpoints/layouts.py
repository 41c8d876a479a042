"""Tiny checkpoints in the exact layouts that people have; see each function for whose it is.

Names, folders and files are the real ones, sizes are not. ``everything(root)`` is a hub cache in
which both FramePack models are complete.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

INVERTED = "lllyasviel/FramePackI2V_HY"
FORWARD = "lllyasviel/FramePack_F1_I2V_HY_20250503"
HUNYUAN = "hunyuanvideo-community/HunyuanVideo"
REDUX = "lllyasviel/flux_redux_bfl"

#: The released config.json field by field, but for sizes.
TRANSFORMER_CONFIG: dict[str, Any] = {
    "_class_name": "HunyuanVideoTransformer3DModelPacked",
    "_diffusers_version": "0.33.0.dev0",
    "_name_or_path": "hunyuanvideo-community/HunyuanVideo",
    "attention_head_dim": 16,
    "guidance_embeds": True,
    "has_clean_x_embedder": True,
    "has_image_proj": True,
    "image_proj_dim": 16,
    "in_channels": 16,
    "mlp_ratio": 4.0,
    "num_attention_heads": 2,
    "num_layers": 2,
    "num_refiner_layers": 1,
    "num_single_layers": 3,
    "out_channels": 16,
    "patch_size": 2,
    "patch_size_t": 1,
    "pooled_projection_dim": 16,
    "qk_norm": "rms_norm",
    "rope_axes_dim": [4, 6, 6],
    "rope_theta": 256.0,
    "text_embed_dim": 32,
}


def diffusers_transformer(seed: int = 0) -> Any:
    """diffusers' FramePack transformer at the tiny size, random weights."""
    from diffusers.models.transformers.transformer_hunyuan_video_framepack import (
        HunyuanVideoFramepackTransformer3DModel,
    )

    torch.manual_seed(seed)
    known: dict[str, Any] = {k: v for k, v in TRANSFORMER_CONFIG.items() if not k.startswith("_")}
    known["rope_axes_dim"] = tuple(known["rope_axes_dim"])
    return HunyuanVideoFramepackTransformer3DModel(**known).eval()


def transformer_state(seed: int = 0) -> dict[str, Tensor]:
    """Names and shapes as diffusers has them, in bf16 as released."""
    state = diffusers_transformer(seed).state_dict()
    return {name: value.to(torch.bfloat16).contiguous() for name, value in state.items()}


def write_shards(
    folder: Path, state: Mapping[str, Tensor], stem: str, shards: int, *, index: bool = True
) -> None:
    """``STEM-0000N-of-0000M.safetensors`` and ``STEM.safetensors.index.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(state)
    weight_map: dict[str, str] = {}
    for number in range(shards):
        file = f"{stem}-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: state[name] for name in names[number::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    if index:
        total = sum(value.nbytes for value in state.values())
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map})
        (folder / f"{stem}.safetensors.index.json").write_text(text)


def write_transformer(folder: Path, seed: int = 0) -> None:
    """``lllyasviel/FramePackI2V_HY`` and its F1 sister: the same files at the root."""
    write_shards(folder, transformer_state(seed), "diffusion_pytorch_model", 3)
    (folder / "config.json").write_text(json.dumps(TRANSFORMER_CONFIG, indent=2))


def write_single_file(path: Path, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> None:
    """Kijai's and maybleMyers' single files; the fp8 one keeps every "norm" in bf16, no scales."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        name: value if "norm" in name else value.to(dtype)
        for name, value in transformer_state(seed).items()
    }
    save_file(state, path)


def write_hunyuan(folder: Path) -> None:
    """``hunyuanvideo-community/HunyuanVideo``: what FramePack uses, and one folder more."""
    from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import (
        AutoencoderKLHunyuanVideo,
    )

    write_llama(folder / "text_encoder")
    write_clip(folder / "text_encoder_2")
    write_tokenizers(folder / "tokenizer", folder / "tokenizer_2")
    torch.manual_seed(3)
    sizes: dict[str, Any] = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 2}
    vae = AutoencoderKLHunyuanVideo(layers_per_block=1, **sizes)
    vae.save_pretrained(folder / "vae")
    (folder / "transformer").mkdir(exist_ok=True)
    (folder / "transformer" / "config.json").write_text("{}")
    (folder / "model_index.json").write_text('{"_class_name": "HunyuanVideoPipeline"}')


def llama_state() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and weights of a tiny LlamaModel; names without ``model.``."""
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=600, hidden_size=32, intermediate_size=32, num_hidden_layers=4,
        num_attention_heads=2, num_key_value_heads=1, bos_token_id=1, eos_token_id=2,
        pad_token_id=0,
    )  # fmt: skip
    state = LlamaModel(config).half().state_dict()
    return {**config.to_dict(), "architectures": ["LlamaModel"]}, dict(state)


def write_llama(folder: Path) -> None:
    """``text_encoder``: fp16, four shards, no ``model.`` level."""
    config, state = llama_state()
    write_shards(folder, state, "model", 4)
    (folder / "config.json").write_text(json.dumps(config, default=str))


def clip_state() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and weights of a tiny CLIP text model, with the published ``text_model.``."""
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(2)
    config = CLIPTextConfig(
        vocab_size=514, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=77, bos_token_id=512, eos_token_id=513,
        pad_token_id=513,
    )  # fmt: skip
    state = {
        "text_model." + name.removeprefix("text_model."): value
        for name, value in CLIPTextModel(config).half().state_dict().items()
        if not name.endswith("position_ids")
    }
    return {**config.to_dict(), "architectures": ["CLIPTextModel"]}, state


def write_clip(folder: Path) -> None:
    """``text_encoder_2``: one file."""
    folder.mkdir(parents=True, exist_ok=True)
    config, state = clip_state()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, default=str))


def siglip_state() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and weights of a tiny SigLIP vision model, under the published names."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(4)
    config = SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        image_size=28, patch_size=14,
    )  # fmt: skip
    state = {
        "vision_model." + name.removeprefix("vision_model."): value
        for name, value in SiglipVisionModel(config).half().state_dict().items()
    }
    return {**config.to_dict(), "architectures": ["SiglipVisionModel"]}, state


def write_redux(folder: Path) -> None:
    """``lllyasviel/flux_redux_bfl``, the unwanted ``image_embedder`` too."""
    for name in ("image_encoder", "feature_extractor", "image_embedder"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    config, state = siglip_state()
    save_file(state, folder / "image_encoder" / "model.safetensors", metadata={"format": "pt"})
    (folder / "image_encoder" / "config.json").write_text(json.dumps(config, default=str))
    processor = {
        "do_normalize": True, "do_rescale": True, "do_resize": True, "do_convert_rgb": True,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        "image_processor_type": "SiglipImageProcessor", "resample": 3,
        "rescale_factor": 1 / 255, "size": {"height": 28, "width": 28},
    }  # fmt: skip
    (folder / "feature_extractor" / "preprocessor_config.json").write_text(json.dumps(processor))
    unwanted = folder / "image_embedder"
    save_file({"redux_up.weight": torch.zeros(2, 2)}, unwanted / "model.safetensors")
    (unwanted / "config.json").write_text("{}")
    (folder / "model_index.json").write_text("{}")


def write_tokenizers(llama: Path, clip: Path) -> None:
    """``tokenizer`` (tokenizer.json) and ``tokenizer_2`` (vocab.json, merges.txt): byte level."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    llama.mkdir(parents=True, exist_ok=True)
    special = ["<pad>", "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>",
               "<|end_header_id|>", "<|eot_id|>"]  # fmt: skip
    vocab = {token: n for n, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(llama / "tokenizer.json"))
    (llama / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>",
                "pad_token": "<pad>", "model_max_length": 8192, "padding_side": "right",
            }
        )
    )  # fmt: skip
    clip.mkdir(parents=True, exist_ok=True)
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (clip / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(tokens)}))
    (clip / "merges.txt").write_text("#version: 0.2\n")
    (clip / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "CLIPTokenizer", "model_max_length": 77,
                "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>",
                "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
            }
        )
    )  # fmt: skip


WRITERS: dict[str, Callable[[Path], None]] = {
    INVERTED: lambda folder: write_transformer(folder, seed=10),
    FORWARD: lambda folder: write_transformer(folder, seed=11),
    HUNYUAN: write_hunyuan,
    REDUX: write_redux,
}


def to_hub_cache(root: Path, repo: str, source: Path, commit: str = "0" * 40) -> Path:
    """Copy a folder into the hub's cache layout: blobs, links to them, ``refs/main``.

    Returns the snapshot folder.
    """
    cached = root / ("models--" + repo.replace("/", "--"))
    snapshot = cached / "snapshots" / commit
    (cached / "refs").mkdir(parents=True, exist_ok=True)
    (cached / "refs" / "main").write_text(commit)
    (cached / "blobs").mkdir(exist_ok=True)
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        target = snapshot / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        blob = cached / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copyfile(file, blob)
        target.unlink(missing_ok=True)
        try:
            target.symlink_to(os.path.relpath(blob, target.parent))
        except OSError:  # Windows without the right to make links: the hub's library copies too
            shutil.copyfile(blob, target)
    return snapshot


def remote(root: Path) -> Path:
    """All repositories as plain folders ``org/name``: what a hub would serve."""
    for repo, writer in WRITERS.items():
        writer(root / repo)
    return root


def everything(root: Path, source: Path) -> Path:
    """A hub cache with both FramePack models, from what :func:`remote` wrote to ``source``."""
    for repo in WRITERS:
        to_hub_cache(root, repo, source / repo)
    return root


def sparse_file(path: Path, tensors: Mapping[str, tuple[str, list[int], int]]) -> None:
    """A safetensors file of zeros that takes no space: name -> (dtype, shape, bytes)."""
    header: dict[str, Any] = {}
    offset = 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # as the library writes it: data starts aligned
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)


def write_large_transformer(folder: Path) -> None:
    """The released transformer at its real size (diffusers' names and shapes), sparse zeros."""
    from diffusers.models.transformers.transformer_hunyuan_video_framepack import (
        HunyuanVideoFramepackTransformer3DModel,
    )

    released = {
        "attention_head_dim": 128, "num_attention_heads": 24, "num_layers": 20,
        "num_single_layers": 40, "num_refiner_layers": 2, "image_proj_dim": 1152,
        "pooled_projection_dim": 768, "rope_axes_dim": [16, 56, 56], "text_embed_dim": 4096,
    }  # fmt: skip
    config: dict[str, Any] = {**TRANSFORMER_CONFIG, **released}
    known: dict[str, Any] = {k: v for k, v in config.items() if not k.startswith("_")}
    with torch.device("meta"):
        model = HunyuanVideoFramepackTransformer3DModel(**known)
    names = sorted(shapes := {n: list(v.shape) for n, v in model.state_dict().items()})
    weight_map: dict[str, str] = {}
    for number in range(3):
        file = f"diffusion_pytorch_model-0000{number + 1}-of-00003.safetensors"
        part = names[number * len(names) // 3 : (number + 1) * len(names) // 3]
        sparse_file(folder / file, {n: ("BF16", shapes[n], 2 * math.prod(shapes[n])) for n in part})
        weight_map |= dict.fromkeys(part, file)
    index = json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(index)
    (folder / "config.json").write_text(json.dumps(config))
