"""Work that is the same in every step of a section is done once, in both passes of guidance."""

from __future__ import annotations

import pytest
import torch
from tests.generation.test_section import conditioning, finish, past, recipe
from tests.generation.tiny_components import tiny_backbone

from recurvid.generation.denoising import Guidance
from recurvid.generation.section import generate_section
from recurvid.models.packed_dit import model as packed_dit


@pytest.mark.parametrize("guided", [False, True])
def test_history_and_phases_are_embedded_once(
    guided: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny_backbone()
    calls = {"sections": 0, "history": 0, "tables": 0, "target": 0}

    def counted(name: str, inner):
        def call(*given, **named):
            calls[name] += 1
            return inner(*given, **named)

        return call

    monkeypatch.setattr(packed_dit, "rope_table", counted("tables", packed_dit.rope_table))
    monkeypatch.setattr(backbone, "embed_section", counted("sections", backbone.embed_section))
    embedders = {"history": backbone.clean_x_embedder, "target": backbone.x_embedder}
    for name, module in embedders.items():
        assert module is not None
        monkeypatch.setattr(module, "forward", counted(name, module.forward))
    planned, history = past(2)
    told = conditioning(0.5)
    guidance = Guidance(2.0, 0.0, conditioning(-0.5)) if guided else Guidance()
    with torch.no_grad():
        made = generate_section(
            planned.sections[1], history, backbone, told, recipe(guidance=guidance)
        )
        events, _ = finish(made)
    assert len(events) == 4
    # Three kernels of history, and a table for each and one for the target; the latents each step.
    assert calls == {"sections": 1, "history": 3, "tables": 4, "target": 8 if guided else 4}
