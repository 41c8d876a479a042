"""The bundled model's text encoder: hashed words, a few learned vectors, no download.

Words are lower-cased, shortened to a stem (pans, panning -> pan) and hashed, so that no vocabulary
has to be kept; a word never seen in training lands on a vector of its own that training showed at
random, and is ignored. The text is always the same length (padding is a learned token), so that
the backbone never needs a mask for it.
"""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recurvid.checkpoints.formats import open_checkpoint
from recurvid.checkpoints.int8 import dequantized
from recurvid.errors import CheckpointError

_PAD, _START, _RESERVED = 0, 1, 2


@dataclass(frozen=True)
class SmallTextConfig:
    """Shape of the encoder.

    Attributes:
        buckets: hashed words share this many vectors.
        width: of the vectors and of the pooled vector.
        tokens: every text is cut or padded to this many.
    """

    buckets: int = 2048
    width: int = 128
    tokens: int = 24


class SmallEmbeds(NamedTuple):
    """A batch of texts: text (b, tokens, width), mask (b, tokens) all True, pooled (b, width)."""

    text: Tensor
    mask: Tensor
    pooled: Tensor


def stem(word: str) -> str:
    """A word without its commonest English endings: "panning" and "pans" become "pan"."""
    for ending in ("ing", "ed", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word[: -len(ending)]
            if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "ls":
                word = word[:-1]
            break
    return word.removesuffix("e") if len(word) > 3 else word


def tokenize(text: str, config: SmallTextConfig) -> list[int]:
    """Token numbers, ``config.tokens`` of them, the first always the start token."""
    words = re.findall(r"[^\W_]+", text.lower())
    hashed = [
        _RESERVED + zlib.crc32(stem(word).encode()) % (config.buckets - _RESERVED)
        for word in words[: config.tokens - 1]
    ]
    ids = [_START, *hashed]
    return ids + [_PAD] * (config.tokens - len(ids))


class SmallTextEncoder(nn.Module):
    """Texts to embeddings; trained together with the backbone."""

    def __init__(self, config: SmallTextConfig | None = None):
        super().__init__()
        self.config = config or SmallTextConfig()
        self.words = nn.Embedding(self.config.buckets, self.config.width)
        self.places = nn.Parameter(torch.zeros(self.config.tokens, self.config.width))
        self.pool = nn.Linear(self.config.width, self.config.width)

    def forward(self, texts: list[str]) -> SmallEmbeds:
        """Embeddings on the device of the weights."""
        device = self.places.device
        ids = torch.tensor([tokenize(text, self.config) for text in texts], device=device)
        words = self.words(ids)  # (b, n, d)
        real = (ids != _PAD).unsqueeze(-1).to(words.dtype)
        pooled = self.pool((words * real).sum(1) / real.sum(1))
        return SmallEmbeds(words + self.places, torch.ones_like(ids, dtype=torch.bool), pooled)


def load_small_text_encoder(path: Path, device: torch.device | str = "cpu") -> SmallTextEncoder:
    """Load ``text.safetensors`` with ``text.json`` beside it, in float32.

    Raises:
        CheckpointError: a damaged file, or one of another shape.
    """
    checkpoint = dequantized(open_checkpoint(path))
    try:
        config = SmallTextConfig(**json.loads(path.with_suffix(".json").read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path.with_suffix('.json')}: no configuration ({error})") from error
    model = SmallTextEncoder(config)
    state = {name: checkpoint.tensor(name).float() for name in checkpoint.keys()}  # noqa: SIM118
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: not the small text encoder of {config}") from error
    return model.to(device).eval().requires_grad_(False)


def to_json(config: SmallTextConfig) -> str:
    """What stands in ``text.json``."""
    return json.dumps(asdict(config))
