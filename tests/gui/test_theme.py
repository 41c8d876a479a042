"""Colours that can be told apart: WCAG AA, in light and in dark."""

from __future__ import annotations

import re
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the page needs the extra gui")

from recurvid.gui.theme import CSS, style, theme
from recurvid.gui.words import LANGUAGES

MODES = pytest.mark.parametrize("mode", ["light", "dark"])
# Text on what it stands on: names of the theme, or of the page's own style sheet.
PAIRS = [
    ("block_info_text_color", "block_background_fill"),
    ("block_label_text_color", "block_background_fill"),
    ("body_text_color_subdued", "block_background_fill"),
    ("body_text_color_subdued", "body_background_fill"),
    ("input_placeholder_color", "input_background_fill"),
    ("--rv-muted", "block_background_fill"), ("--rv-muted", "body_background_fill"),
    ("--rv-muted", "--rv-soft"), ("--rv-warn", "--rv-warn-soft"), ("--rv-bad", "--rv-bad-soft"),
    ("--rv-chosen", "body_background_fill"), ("--rv-chosen", "block_background_fill"),
    ("button_primary_text_color", "button_primary_background_fill"),
    ("button_primary_text_color", "button_primary_background_fill_hover"),
]  # fmt: skip
RINGS = [("--rv-ring", "block_background_fill"), ("--rv-ring", "body_background_fill")]


def colour(name: str, mode: str) -> tuple[int, int, int]:
    """Red, green and blue of a name, looked up until it is a colour."""
    made: Any = theme()
    for _ in range(9):
        if name.startswith("#"):
            digits = name[1:]
            return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:6], 16)
        if name == "white":
            return 255, 255, 255
        if name.startswith("--rv-"):
            block = ".dark" if mode == "dark" else ":root"
            rules = re.search(rf"^{re.escape(block)} {{(.*)}}$", CSS.read_text("utf-8"), re.M)
            assert rules
            found = re.search(rf"{name}: (?:var\(--([\w-]+)\)|(#\w+));", rules[1])
            assert found, name
            name = (found[1] or "").replace("-", "_") or found[2]
            continue
        name = name.lstrip("*")
        dark = getattr(made, f"{name}_dark", None) if mode == "dark" else None
        name = dark or getattr(made, name)
    raise AssertionError(name)


def contrast(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    def light(colour: tuple[int, int, int]) -> float:
        parts = [part / 255 for part in colour]
        r, g, b = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_counted_as_wcag_does():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)


@MODES
@pytest.mark.parametrize(("text", "ground"), PAIRS)
def test_text_can_be_read(text: str, ground: str, mode: str):
    assert contrast(colour(text, mode), colour(ground, mode)) >= 4.5


@MODES
@pytest.mark.parametrize(("ring", "ground"), RINGS)
def test_what_the_keyboard_holds_can_be_seen(ring: str, ground: str, mode: str):
    assert contrast(colour(ring, mode), colour(ground, mode)) >= 3


@pytest.mark.parametrize("code", LANGUAGES)
def test_messages_have_titles_in_every_language(code: str):
    for key in ("notice.done", "notice.wrong", "notice.failed"):
        assert f'content: "{LANGUAGES[code](key)}"' in style()
