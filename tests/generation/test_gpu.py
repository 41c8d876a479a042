"""A session on a CUDA device. Nothing here runs in CI."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.generation.sessions import planned, start
from tests.generation.tiny_components import tiny_backbone, tiny_components

from recurvid.generation.components import Components
from recurvid.generation.runtime import Runtime
from recurvid.generation.session import GenerationSession
from recurvid.generation.tensor_files import load_latents
from recurvid.vae.taehv_codec import TAEHVCodec

pytestmark = pytest.mark.gpu


def on(device: str) -> Components:
    parts = tiny_components()

    def codec() -> TAEHVCodec:
        made = parts.loaders.codec()
        assert isinstance(made, TAEHVCodec)
        made.module.to(device)
        return made

    loaders = replace(parts.loaders, codec=codec, backbone=lambda: tiny_backbone().to(device))
    return replace(parts, loaders=loaders, runtime=Runtime.of(device))


@pytest.mark.parametrize("asked", [{}, {"cfg_scale": 3.0, "negative_prompt": "blur"}], ids=str)
def test_a_gpu_makes_the_video_of_the_cpu(tmp_path: Path, asked: dict[str, Any]) -> None:
    made: dict[str, torch.Tensor] = {}
    for device in ("cpu", "cuda"):
        journal = start(tmp_path / device, **asked)
        components = on(device)
        plan = planned(journal, components)
        assert list(GenerationSession(journal, plan, components).run())
        made[device] = torch.cat([load_latents(journal.section_path(i)).data for i in range(2)])
    error = (made["cpu"] - made["cuda"]).norm() / made["cpu"].norm()
    assert error < 1e-2  # TF32 convolutions in the autoencoder
