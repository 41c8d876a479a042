"""Tabs: the components of the page that events read and write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from recurvid.gui.batch_box import BatchBox
from recurvid.gui.create_tab import CreateTab, Wish
from recurvid.gui.models_tab import ModelsTab
from recurvid.gui.words import word

Updates = dict[Any, Any]
"""Component -> what it shows from now on."""


@dataclass(frozen=True)
class Tabs:
    """The page's components, and what a session keeps."""

    tabs: gr.Tabs
    header: gr.HTML
    create: CreateTab
    queue: gr.HTML
    batch: BatchBox
    history: gr.HTML
    models_tab: gr.Tab
    models: ModelsTab
    shown: gr.State
    editing: gr.State
    asked: gr.State
    limit: gr.State
    seen: gr.State

    @property
    def lists(self) -> list[Any]:
        """What shows jobs."""
        return [self.create.stage, self.queue, self.history]

    @property
    def form(self) -> list[Any]:
        """What a user fills in."""
        create = self.create
        return [create.picture, create.end_picture, *create.how, *create.fields]

    @property
    def keeps(self) -> list[Any]:
        """What changes in a session with a click."""
        buttons = [self.create.generate, self.create.stop_editing]
        return [self.tabs, self.shown, self.editing, self.limit, *buttons]

    def wish(self, values: tuple[Any, ...]) -> Wish:
        """The form's values, in the order of ``form``."""
        picture, end, *rest = values
        how = len(self.create.how)
        return Wish(picture, end, rest[:how], rest[how:])

    def edit(self, id: str) -> Updates:
        """The form changes a queued job from now on."""
        return {
            self.editing: id,
            self.create.generate: gr.Button(word("save_changes")),
            self.create.stop_editing: gr.Button(visible=True),
        }

    def stop_editing(self) -> Updates:
        """The form makes new jobs again."""
        return {
            self.editing: "",
            self.create.generate: gr.Button(word("generate")),
            self.create.stop_editing: gr.Button(visible=False),
        }
