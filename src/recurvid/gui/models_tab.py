"""The tab of models: cards, the memory plan, and what this machine can run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from recurvid.checkpoints.known import KNOWN
from recurvid.gui import models_panel
from recurvid.gui.how_form import vram_from
from recurvid.gui.page import BUSY, Page, panel, told
from recurvid.gui.words import word


@dataclass(frozen=True)
class ModelsTab:
    """Its components.

    Attributes:
        planned: what a memory plan is drawn from, by ``draw_plan``.
    """

    cards: gr.HTML
    kernels: gr.HTML
    look: gr.Button
    draw: gr.Button
    planned: list[Component]
    plan: gr.HTML
    draw_plan: Callable[..., Any]


def build(page: Page) -> ModelsTab:
    """Lay the tab out; inside an open ``gr.Tab``."""
    cards = panel("models")
    planned = [name for name, spec in KNOWN.items() if not spec.bundled]
    with gr.Accordion(word("memory"), open=True, elem_id="memory-drawer"):
        gr.Markdown(word("memory.note"), elem_classes="rv-note")
        with gr.Row(equal_height=False):
            model = gr.Dropdown(
                planned, value=planned[0], label=word("memory.model"), filterable=False,
                elem_id="memory-model", min_width=180,
            )  # fmt: skip
            size = gr.Textbox("832x480", label=word("memory.size"), max_length=20, min_width=140)
            vram = gr.Textbox(
                label=word("memory.vram"), max_length=20, min_width=180, elem_id="memory-vram"
            )
            draw = gr.Button(
                word("memory.draw"), variant="primary", elem_id="memory-draw", min_width=140
            )
        plan = panel("memory-plan")
    with gr.Accordion(word("kernels"), open=True, elem_id="kernels-drawer"):
        kernels = panel("kernels")
        look = gr.Button(word("kernels.look"), size="sm", elem_id="kernels-look")

    def drawn(model: str, size: str, vram: str, request: gr.Request) -> Any:
        visitor = page.visitor(request)

        def draw() -> str:
            plan = page.machine.plan(model, size, vram_from(vram))
            return models_panel.memory_plan(plan, visitor.language)

        return told(visitor, draw, gr.skip())

    asked: list[Component] = [model, size, vram]
    draw.click(drawn, asked, plan, concurrency_limit=2, **BUSY)
    return ModelsTab(cards, kernels, look, draw, asked, plan, drawn)
