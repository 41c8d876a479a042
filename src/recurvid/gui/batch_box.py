"""Many pictures at once: each becomes a job with the prompt and settings of the form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from recurvid.errors import RecurVidError
from recurvid.gui.create_tab import Wish, submit
from recurvid.gui.page import Page, Visitor
from recurvid.gui.sayings import problem
from recurvid.gui.words import word

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".avif", ".gif", ".tif", ".tiff", ".bmp", ".heic"}


@dataclass(frozen=True)
class BatchBox:
    """Its components."""

    files: gr.File
    folder: gr.UploadButton
    start: gr.Button


def build() -> BatchBox:
    """Lay the box out; inside an open tab."""
    with gr.Accordion(word("batch"), open=False, elem_id="batch-drawer"):
        gr.Markdown(word("batch.note"), elem_classes="rv-note")
        files = gr.File(
            label=word("batch.files"),
            file_count="multiple",
            file_types=["image"],
            height=160,
            elem_id="batch-files",
        )
        with gr.Row():
            folder = gr.UploadButton(
                word("batch.folder"), file_count="directory", elem_id="batch-folder"
            )
            start = gr.Button(word("batch.start"), variant="primary", elem_id="batch-start")
    return BatchBox(files, folder, start)


def pictures_of(files: Sequence[str] | None) -> list[str]:
    """The pictures among uploaded files, by name in order; a folder brings other files along."""
    found = [file for file in files or () if Path(file).suffix.lower() in SUFFIXES]
    return sorted(found, key=lambda file: Path(file).name.lower())


def queue_all(
    page: Page, visitor: Visitor, files: Sequence[str], wish: Wish
) -> tuple[int, list[str]]:
    """Queue a job for each picture; returns how many, and why the others were refused."""
    added, refused = 0, list[str]()
    for file in pictures_of(files):
        try:
            submit(page, visitor, Wish(file, None, wish.how, wish.fields), "")
        except RecurVidError as error:
            refused.append(f"{Path(file).name}: {problem(visitor.language, error)}")
        else:
            added += 1
    return added, refused
