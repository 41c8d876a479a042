"""Prompts -> embeddings: LLaMA, then CLIP, each loaded, used and freed; nothing when cached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from recurvid.encoders.prompt_cache import PromptCache, content_key, files_key
from recurvid.encoders.text import VIDEO_TEMPLATE, PromptTemplate, load_clip, load_llama
from recurvid.encoders.weights import free
from recurvid.errors import NumericsError

#: Tokens that the released models' text input is padded to.
TEXT_LENGTH = 512


@dataclass(frozen=True)
class PromptEmbeds:
    """What prompts become, on the CPU.

    Attributes:
        text: (b, l, d), zeros behind the prompt's tokens.
        mask: (b, l) bool, True where ``text`` is a real token.
        pooled: (b, p).
    """

    text: Tensor
    mask: Tensor
    pooled: Tensor


@dataclass(frozen=True)
class TextFiles:
    """Where the text encoders are: folders as on the hub, or single weights files."""

    llama: Path
    llama_tokenizer: Path
    clip: Path
    clip_tokenizer: Path


class PromptEncoder:
    """Encodes prompts with HunyuanVideo's two text encoders. Holds no model between calls.

    Give all prompts of a video in one call: each encoder is then loaded once. Every prompt runs
    alone, so its bits do not depend on its company.

    Args:
        dtype: of weights and embeddings; the released models' encoders run in float16.
        cache: where embeddings are kept between runs; None keeps nothing.
        resident: how many of LLaMA's layers stay on the device, the others being streamed; None
            for a device that holds them all.
    """

    def __init__(
        self,
        files: TextFiles,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float16,
        cache: PromptCache | None = None,
        template: PromptTemplate = VIDEO_TEMPLATE,
        resident: int | None = None,
    ):
        self._files = files
        self._device = device
        self._dtype = dtype
        self._cache = cache
        self._template = template
        self._resident = resident

    def __call__(self, texts: Sequence[str]) -> PromptEmbeds:
        """One row a text: (b, 512, 4096), (b, 512), (b, 768).

        Raises:
            CheckpointError: an encoder is missing, damaged or another's.
            NumericsError: an embedding is not finite (in float16 on some devices).
        """
        rows = {text: self._cached(text) for text in texts}
        new = [text for text, row in rows.items() if row is None]
        for text, row in zip(new, self._encode(new), strict=True):
            rows[text] = row
            if self._cache is not None:
                self._cache.put(self._key(text), row)
        found = [row for text in texts if (row := rows[text]) is not None]
        return padded([row["text"] for row in found], [row["pooled"] for row in found])

    def _encode(self, texts: list[str]) -> list[dict[str, Tensor]]:
        if not texts:
            return []
        files, device, dtype, template = self._files, self._device, self._dtype, self._template
        tokens = self._run(
            lambda: load_llama(
                files.llama,
                files.llama_tokenizer,
                device=device,
                dtype=dtype,
                template=template,
                resident=self._resident,
            ),
            texts,
        )
        pooled = self._run(
            lambda: load_clip(files.clip, files.clip_tokenizer, device=device, dtype=dtype), texts
        )
        return [{"text": t, "pooled": p} for t, p in zip(tokens, pooled, strict=True)]

    def _run(self, load: Callable[[], Callable[[str], Tensor]], texts: list[str]) -> list[Tensor]:
        """Load an encoder, use it, and give its memory back before the next one comes."""
        encoder = load()
        rows = [encoder(text).to(self._dtype) for text in texts]
        del encoder
        free(self._device)
        if not all(torch.isfinite(row).all() for row in rows):
            raise NumericsError(f"a prompt's embedding is not finite in {self._dtype}; use float32")
        return rows

    def _cached(self, text: str) -> dict[str, Tensor] | None:
        row = None if self._cache is None else self._cache.get(self._key(text))
        return row if row is not None and {"text", "pooled"} <= set(row) else None

    def _key(self, text: str) -> str:
        return content_key(self._weights | {"prompt": text})

    @cached_property
    def _weights(self) -> dict[str, str | int]:
        """All that embeddings depend on beside the prompt."""
        files = self._files
        return {
            "llama": files_key(files.llama),
            "llama tokenizer": files_key(files.llama_tokenizer),
            "clip": files_key(files.clip),
            "clip tokenizer": files_key(files.clip_tokenizer),
            "template": self._template("{}"),
            "crop": self._template.crop,
            "longest": self._template.longest,
            "dtype": str(self._dtype),
        }


def padded(text: Sequence[Tensor], pooled: Sequence[Tensor]) -> PromptEmbeds:
    """Rows (l, d) of different lengths and (p,) -> one batch, zeros behind each prompt."""
    lengths = torch.tensor([row.shape[0] for row in text])
    rows = [F.pad(row, (0, 0, 0, TEXT_LENGTH - row.shape[0])) for row in text]
    mask = torch.arange(TEXT_LENGTH)[None] < lengths[:, None]
    return PromptEmbeds(torch.stack(rows), mask, torch.stack(list(pooled)))
