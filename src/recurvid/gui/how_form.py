"""How this machine runs a job: the choices of :class:`HowToRun`, each with what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from recurvid.errors import InputError
from recurvid.gui.form import number_in
from recurvid.gui.models_panel import FORMS
from recurvid.gui.words import LANGUAGES, Language, word
from recurvid.jobs.states import HowToRun

FIELDS = (
    "attention", "weights", "vram", "dtype", "compiled", "exact_steps", "sparse", "metadata"
)  # fmt: skip
"""In the order of the components. The device is the page's own."""

_AUTO = "auto"
_PLAIN = HowToRun()
_LEAST, _MOST = 1, 4096
_DTYPES = (_AUTO, "float32", "bfloat16", "float16")


def components() -> list[Component]:
    """One component a choice, made inside the layout that is open."""

    def named(name: str) -> dict[str, Any]:
        label, info = word(f"how.{name}"), word(f"how.{name}.help")
        return {"label": label, "info": info, "elem_id": f"how-{name}"}

    english = LANGUAGES["en"]
    return [
        gr.Dropdown(
            kernel_choices((), english), value=_AUTO, filterable=False, **named("attention")
        ),
        gr.Dropdown(weight_choices(english), value=_AUTO, filterable=False, **named("weights")),
        gr.Textbox(value="", placeholder=word("auto"), max_length=20, **named("vram")),
        gr.Dropdown(dtype_choices(english), value=_AUTO, filterable=False, **named("dtype")),
        gr.Checkbox(value=False, **named("compiled")),
        gr.Textbox(value=str(_PLAIN.exact_steps), max_length=4, **named("exact_steps")),
        gr.Textbox(value=_PLAIN.sparse, max_length=20, **named("sparse")),
        gr.Checkbox(value=_PLAIN.metadata, **named("metadata")),
    ]


Choices = list[tuple[str, str]]


def kernel_choices(runnable: Sequence[str], language: Language) -> Choices:
    """What the attention drop-down offers, given the kernels that are known to run here."""
    return _choices(runnable or ("sdpa",), language)


def weight_choices(language: Language) -> Choices:
    """Forms of weights, each with what it brings and costs."""
    named = [(f"{form}: {language(f'form.{form}')}", form) for form in FORMS]
    return [*_choices((), language), *named]


def dtype_choices(language: Language) -> Choices:
    """Number types."""
    return _choices(_DTYPES[1:], language)


def _choices(names: Sequence[str], language: Language) -> Choices:
    return [(language("auto"), _AUTO), *((name, name) for name in names)]


def how_from(values: Sequence[Any], device: str) -> HowToRun:
    """The choices of a filled form.

    Raises:
        InputError: naming the choice that is none.
    """
    given = dict(zip(FIELDS, values, strict=True))
    if given["weights"] not in (_AUTO, *FORMS):
        raise _no_choice("weights", given["weights"])
    if given["dtype"] not in _DTYPES:
        raise _no_choice("dtype", given["dtype"])
    return HowToRun(
        device=device,
        dtype=given["dtype"],
        vram=vram_from(given["vram"]),
        attention=given["attention"] or _AUTO,
        weights=given["weights"],
        compiled=bool(given["compiled"]),
        exact_steps=exact_from(given["exact_steps"]),
        sparse=(given["sparse"] or "").strip() or _PLAIN.sparse,
        metadata=bool(given["metadata"]),
    )


def shown(how: HowToRun) -> list[Any]:
    """The choices as values of the components."""
    values = {name: getattr(how, name) for name in FIELDS}
    typed = {
        "vram": "" if how.vram is None else f"{how.vram:g}",
        "exact_steps": str(how.exact_steps),
    }
    return list({**values, **typed}.values())


def exact_from(text: str | None) -> int:
    """Exact steps as typed; the usual number for nothing.

    Raises:
        InputError: no whole number.
    """
    if text is None or not text.strip():
        return _PLAIN.exact_steps
    return int(number_in("exact_steps", text, whole=True))


def vram_from(text: str | None) -> float | None:
    """GiB as typed; None for nothing.

    Raises:
        InputError: no number, or none from 1 to 4096.
    """
    if text is None or not text.strip():
        return None
    amount = float(number_in("vram", text))
    if not _LEAST <= amount <= _MOST:
        raise InputError(
            f"memory: {amount:g} GiB is not between {_LEAST} and {_MOST}",
            "how.vram",
            how="vram",
            value=f"{amount:g}",
            least=_LEAST,
            most=_MOST,
        )
    return amount


def _no_choice(name: str, given: object) -> InputError:
    value = str(given)[:40]
    return InputError(f"{name} {value!r} is unknown", "how.choice", how=name, value=value)
