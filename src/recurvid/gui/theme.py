"""How the page looks: colours, type and spacing of the theme; the rest is ``page.css``."""

from __future__ import annotations

from pathlib import Path

from gradio import themes
from gradio.themes.utils.colors import Color

from recurvid.gui.words import LANGUAGES

CSS = Path(__file__).with_name("page.css")
SCRIPT = Path(__file__).with_name("page.js")
ANSWERS = Path(__file__).with_name("answers.js")

_TEAL = Color(
    name="recurvid",
    c50="#effcf9", c100="#d3f6ef", c200="#a7ece0", c300="#70dacb", c400="#3bbfb0",
    c500="#16a195", c600="#0c8079", c700="#0d6662", c800="#10514f", c900="#124341", c950="#042827",
)  # fmt: skip
_SLATE = Color(
    name="recurvid-slate",
    c50="#f7f9fa", c100="#eef2f4", c200="#dfe6ea", c300="#c5d0d7", c400="#8fa0ac",
    c500="#5a6b78", c600="#4c5c68", c700="#33414c", c800="#1d2831", c900="#131c23", c950="#0b1217",
)  # fmt: skip
# Fonts of the system only: nothing is fetched, and Japanese and Chinese have theirs.
_FONT = (
    "ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans",
    "Noto Sans CJK JP", "Hiragino Sans", "PingFang SC", "Microsoft YaHei", "sans-serif",
)  # fmt: skip
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def style() -> str:
    """The page's own style sheet, with the titles of messages, which Gradio has in English only."""
    said = {"info": "notice.done", "warning": "notice.wrong", "error": "notice.failed"}
    rules = [".toast-title { font-size: 0 !important; }"]
    for code, language in LANGUAGES.items():
        # English is for every language that the page does not speak.
        where = "" if code == "en" else f":lang({code}) "
        rules += [
            f'{where}.toast-title.{kind}::before {{ content: "{language(key)}"; font-size: 15px; }}'
            for kind, key in said.items()
        ]
    return "\n".join([CSS.read_text("utf-8"), *rules])


def theme() -> themes.Base:
    """The theme, light and dark."""
    return themes.Base(
        primary_hue=_TEAL,
        secondary_hue=_TEAL,
        neutral_hue=_SLATE,
        radius_size=themes.sizes.radius_lg,
        font=_FONT,
        font_mono=_MONO,
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        background_fill_primary="white",
        background_fill_primary_dark="*neutral_900",
        background_fill_secondary="*neutral_100",
        background_fill_secondary_dark="*neutral_800",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_800",
        block_label_background_fill="*background_fill_primary",
        block_label_background_fill_dark="*background_fill_primary",
        block_label_border_width="0px",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_title_text_weight="600",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
        border_color_primary="*neutral_200",
        border_color_primary_dark="*neutral_800",
        input_background_fill="*neutral_50",
        input_background_fill_dark="*neutral_950",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        input_border_width="1px",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
        button_primary_text_color="white",
        button_secondary_background_fill="*neutral_100",
        button_secondary_background_fill_hover="*neutral_200",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover_dark="*neutral_700",
        button_large_radius="*radius_lg",
        slider_color="*primary_600",
        slider_color_dark="*primary_500",
        checkbox_background_color_selected="*primary_600",
        checkbox_background_color_selected_dark="*primary_600",
        block_radius="14px",
        container_radius="14px",
        input_radius="10px",
        block_shadow="none",
        block_shadow_dark="none",
        layout_gap="14px",
    )
