"""The page's texts in the languages it speaks, for Gradio's translation and for our own HTML.

Labels of Gradio's components are translated by the browser through :func:`gradio.I18n`; HTML that
is drawn here is written in the language that the browser asks for. Both read the same tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from gradio.i18n import I18nData

from recurvid.checkpoints.known import KNOWN
from recurvid.generation.request import limits_of, request_fields
from recurvid.gui.languages import (
    chinese,
    chinese_errors,
    english,
    english_errors,
    japanese,
    japanese_errors,
)

# Gradio translates any text that happens to be a key, a user's words too: ours are no words.
_PREFIX = "recurvid."


def _english() -> dict[str, str]:
    """With what requests and models say of themselves where the page does not say it better."""
    said = {f"field.{spec.name}.help": limits_of(spec).help for spec in request_fields()}
    for spec in KNOWN.values():
        said[f"model.{spec.name}.title"] = spec.title
        said |= {f"licence.{term.name}": term.summary for term in spec.licences}
    return said | english.WORDS | english_errors.WORDS


@dataclass(frozen=True)
class Language:
    """One language: its code in BCP 47 and its texts.

    A text may hold ``{names}`` that :meth:`__call__` fills in.
    """

    code: str
    words: Mapping[str, str] = field(repr=False)

    def __call__(self, key: str, **values: Any) -> str:
        """The text of a key, plain: whoever writes it into HTML escapes it.

        Raises:
            KeyError: no such text.
        """
        text = self.words[key]
        return text.format(**values) if values else text


LANGUAGES = {
    "en": Language("en", _english()),
    "ja": Language("ja", japanese.WORDS | japanese_errors.WORDS),
    "zh": Language("zh", chinese.WORDS | chinese_errors.WORDS),
}


def translations() -> gr.I18n:
    """The same tables for Gradio; ``zh-CN`` and ``zh-TW`` are what browsers call Chinese."""
    tables = {
        code: {_PREFIX + key: text for key, text in language.words.items()}
        for code, language in LANGUAGES.items()
    }
    chinese_names = {"zh-CN": tables["zh"], "zh-TW": tables["zh"]}
    return gr.I18n(**tables, **chinese_names)


def word(key: str) -> Any:
    """A text that the browser translates (``gradio.i18n.I18nData``).

    Raises:
        KeyError: no such text.
    """
    if key not in LANGUAGES["en"].words:
        raise KeyError(key)
    return I18nData(_PREFIX + key)


def language_for(accept_language: str | None) -> Language:
    """The first language of an Accept-Language header that the page speaks, or English.

    Browsers send their languages best first, so that the weights need not be read.
    """
    for part in (accept_language or "")[:500].split(","):
        code = part.split(";")[0].strip().lower().split("-")[0]
        if code in LANGUAGES:
            return LANGUAGES[code]
    return LANGUAGES["en"]


def duration(language: Language, seconds: float) -> str:
    """A length of time for people: "8 s", "3 min 20 s", "2 h 5 min"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return language("time.s", s=whole)
    if whole < 3600:
        return language("time.m", m=whole // 60, s=whole % 60)
    return language("time.h", h=whole // 3600, m=whole % 3600 // 60)


def time_left(language: Language, seconds: float) -> str:
    """What is left of a job, no finer than such a guess can be: "20 s", "3 min 5 s", "12 min"."""
    whole = max(5.0, 5.0 * round(seconds / 5))
    if whole < 600 or whole >= 3600:
        return duration(language, whole)
    return language("time.min", m=round(whole / 60))
