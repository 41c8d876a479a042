"""LLaMA and CLIP, as HunyuanVideo reads prompts."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recurvid.checkpoints.dialects import CLIP_TEXT, LLAMA_TEXT
from recurvid.encoders.weights import fill, open_flat, read_config
from recurvid.errors import CheckpointError
from recurvid.memory.streaming import streamed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PromptTemplate:
    """The words around a prompt, which the backbone was trained with.

    Attributes:
        before, after: what stands around the prompt.
        crop: tokens at the start (begin-of-text included) that the backbone does not see.
        longest: tokens that are kept behind the crop.
    """

    before: str
    after: str
    crop: int
    longest: int = 256

    def __call__(self, prompt: str) -> str:
        """The text that is tokenised."""
        return f"{self.before}{prompt}{self.after}"


#: Of the released checkpoints (HunyuanVideo's video template; part of the weights, so data).
VIDEO_TEMPLATE = PromptTemplate(
    before=(
        "<|start_header_id|>system<|end_header_id|>\n\nDescribe the video by detailing the "
        "following aspects: 1. The main content and theme of the video."
        "2. The color, shape, size, texture, quantity, text, and spatial relationships of the "
        "objects."
        "3. Actions, events, behaviors temporal relationships, physical movement changes of the "
        "objects."
        "4. background environment, light, style and atmosphere."
        "5. camera angles, movements, and transitions used in the video:<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n"
    ),
    after="<|eot_id|>",
    crop=95,
)

#: Third from the end: the output of the last layer but two.
HIDDEN_STATE = -3
CLIP_LENGTH = 77

# What a single weights file does not say: xtuner's llava-llama-3-8b-v1_1 and OpenAI's
# clip-vit-large-patch14, text side.
_LLAMA_3_8B = {
    "vocab_size": 128320,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
}
_CLIP_L = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}


class LlamaTokenizer:
    """``tokenizer.json`` as it is, with the begin-of-text token in front in any case.

    transformers' own classes are not used: LlamaTokenizerFast of 5.x rebuilds another tokenizer
    from this one's vocabulary, and whether begin-of-text is added depends on class and version.
    """

    def __init__(self, folder: Path):
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json" if folder.is_dir() else folder
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise CheckpointError(f"{path}: not a tokenizer ({str(error)[:120]})") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.path = path
        self._begin = self._tokenizer.token_to_id(_begin_token(path.parent))

    def __call__(self, text: str) -> list[int]:
        """Token ids, begin-of-text first where the tokenizer knows it."""
        ids: list[int] = self._tokenizer.encode(text).ids
        if self._begin is None or ids[:1] == [self._begin]:
            return ids
        return [self._begin, *ids]


class LlamaEncoder:
    """Prompt -> one vector a token."""

    def __init__(self, model: Any, tokenizer: LlamaTokenizer, template: PromptTemplate):
        self._model = model
        self._tokenizer = tokenizer
        self._template = template

    def __call__(self, prompt: str) -> Tensor:
        """(l, d) on the CPU in the model's dtype, 1 <= l <= ``template.longest``.

        Each prompt runs alone and unpadded: attention is causal, so padding on the right would
        change nothing but the rounding.

        Raises:
            CheckpointError: the tokenizer makes so few tokens of the template that it is another.
        """
        ids = self._tokenizer(self._template(prompt))
        kept = ids[: self._template.crop + self._template.longest]
        if len(kept) <= self._template.crop:
            raise CheckpointError(
                f"{self._tokenizer.path}: not LLaMA 3's tokenizer: the prompt with its template "
                f"is {len(kept)} tokens, of which {self._template.crop} are cut off"
            )
        if len(kept) < len(ids):
            logger.info("prompt cut: %d tokens too many for LLaMA", len(ids) - len(kept))
        tokens = torch.tensor([kept], device=self._model.device)
        with torch.no_grad():
            states = self._model(input_ids=tokens, output_hidden_states=True).hidden_states
        return states[HIDDEN_STATE][0, self._template.crop :].cpu()


class ClipEncoder:
    """Prompt -> one vector."""

    def __init__(self, model: Any, tokenizer: Any):
        self._model = model
        self._tokenizer = tokenizer

    def __call__(self, prompt: str) -> Tensor:
        """Pooled embedding (p,) on the CPU in the model's dtype; 77 tokens are read."""
        tokens = self._tokenizer(
            [prompt],
            padding="max_length",
            max_length=CLIP_LENGTH,
            truncation=True,
            return_tensors="pt",
        )
        with torch.no_grad():
            output = self._model(tokens.input_ids.to(self._model.device))
        return output.pooler_output[0].cpu()


def load_llama(
    weights: Path,
    tokenizer: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float16,
    template: PromptTemplate = VIDEO_TEMPLATE,
    resident: int | None = None,
) -> LlamaEncoder:
    """LLaMA from a folder or a single file, and its tokenizer's folder.

    Args:
        resident: how many layers stay on the device; the others are streamed to it from the file.
            None keeps all.

    Raises:
        CheckpointError: one line naming the file that is missing, damaged or another's.
    """
    from transformers import LlamaConfig, LlamaModel

    words = LlamaTokenizer(tokenizer)
    checkpoint = open_flat(weights, LLAMA_TEXT)
    config = read_config(LlamaConfig, weights, _LLAMA_3_8B)
    config.use_cache = False
    if resident is None:
        model = fill(LlamaModel, config, checkpoint, device=device, dtype=dtype)
    else:
        model = fill(LlamaModel, config, checkpoint, device="cpu", dtype=dtype)
        model.layers = streamed(model.layers, torch.device(device), resident)
        model.to(device)  # leaves the layers alone
    return LlamaEncoder(model, words, template)


def load_clip(
    weights: Path,
    tokenizer: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float16,
) -> ClipEncoder:
    """CLIP-L's text side from a folder or a single file, and its tokenizer's folder.

    Raises:
        CheckpointError: one line naming the file that is missing, damaged or another's.
    """
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    try:
        words = CLIPTokenizer.from_pretrained(str(tokenizer), local_files_only=True)
    except Exception as error:  # tokenizers raises bare Exception
        reason = (str(error).splitlines() or [""])[0][:120]
        raise CheckpointError(f"{tokenizer}: not CLIP's tokenizer ({reason})") from error
    checkpoint = open_flat(weights, CLIP_TEXT)
    config = read_config(CLIPTextConfig, weights, _CLIP_L)
    model = fill(CLIPTextModel, config, checkpoint, device=device, dtype=dtype)
    return ClipEncoder(model, words)


def _begin_token(folder: Path) -> str:
    """The begin-of-text token that ``tokenizer_config.json`` names, or LLaMA 3's."""
    try:
        config: Any = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
        token = config["bos_token"]
        return token["content"] if isinstance(token, dict) else str(token)
    except (OSError, ValueError, KeyError, TypeError):
        return "<|begin_of_text|>"
