"""LLaMA through a device that holds one layer gives the bits of LLaMA at home."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.encoders.tiny_encoders import PROMPT, save_text_encoders

from recurvid.encoders.text import load_llama
from recurvid.memory.streaming import StreamedBlocks


@pytest.mark.parametrize("resident", [0, 1])
def test_same_embedding(tmp_path: Path, resident: int):
    files = save_text_encoders(tmp_path)
    plain = load_llama(files.llama, files.llama_tokenizer, dtype=torch.float32)
    ours = load_llama(files.llama, files.llama_tokenizer, dtype=torch.float32, resident=resident)
    layers = ours._model.layers
    assert isinstance(layers, StreamedBlocks)
    expected = plain(PROMPT)
    assert expected.abs().max() > 0
    for _ in range(2):
        assert ours(PROMPT).equal(expected)
    assert len(layers.stream.resident) == resident
    assert layers.stream.live  # it did stream
