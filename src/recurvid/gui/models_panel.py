"""The model page as HTML: what is installed, licences, downloads, the memory plan, the kernels."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from recurvid.checkpoints.fetch import in_words
from recurvid.checkpoints.known import KNOWN, Component, ModelSpec
from recurvid.checkpoints.locate import Found, status
from recurvid.errors import Line
from recurvid.gui.downloads import Download, Downloads
from recurvid.gui.machine import Machine
from recurvid.gui.sayings import say
from recurvid.gui.words import Language

FORMS = ("int8", "fp8", "int8-weights", "nf4", "int4")
GIB = 2**30
_PIECES = (
    ("weights", "weights"),
    ("resident", "resident_bytes"),
    ("buffers", "slot_bytes"),
    ("work", "work"),
)


def models(downloads: Downloads, asked: str, language: Language) -> str:
    """Cards of all models.

    Args:
        asked: the model whose licences this session reads now, "" for none.
    """
    cards = "".join(_card(spec, downloads, asked, language) for spec in KNOWN.values())
    intro = escape(language("models.intro"))
    return f'<p class="rv-why">{intro}</p><div class="rv-models">{cards}</div>'


def _card(spec: ModelSpec, downloads: Downloads, asked: str, language: Language) -> str:
    parts = status(spec)
    states = {part.state for part in parts}
    state = states.pop() if len(states) == 1 else "incomplete"
    word = "models.bundled" if spec.bundled else f"models.{state}"
    size = sum(part.size if part.path else part.component.size for part in parts)
    lines = "".join(_part(part, language) for part in parts)
    terms = ", ".join(term.name for term in spec.licences)
    order, title = spec.defaults.order, language(f"model.{spec.name}.title")
    return (
        f'<article class="rv-model"><div class="rv-line"><h3>{escape(spec.name)}</h3>'
        f'<span class="rv-badge rv-{state}">{escape(language(word))}</span></div>'
        f'<p class="rv-prompt">{escape(title)}</p><p class="rv-facts">{in_words(size)} · '
        f"{escape(order)} · {escape(terms)}</p>"
        f"<details><summary>{escape(language('models.parts'))}</summary><ul>{lines}</ul></details>"
        f"{_fetching(spec, parts, downloads.state(spec.name), asked, language)}</article>"
    )


def _part(part: Found, language: Language) -> str:
    role = language(f"role.{part.component.role}")
    name = f"{role} · {part.component.repo or 'recurvid'}"
    state = language(f"models.{part.state}")
    return f"<li><span>{escape(name)}</span><span>{escape(state)}</span></li>"


def _fetching(
    spec: ModelSpec,
    parts: tuple[Found, ...],
    download: Download | None,
    asked: str,
    language: Language,
) -> str:
    lost = [part for part in parts if part.path is None]
    if spec.bundled or not lost:
        return ""
    size = in_words(sum(max(0, part.component.size - part.size) for part in lost))
    if download is not None and download.running:
        return _progress(spec, download, language)
    note = ""
    if download is not None and download.error:
        text = language("models.failed", reason=say(language, download.error))
        note = f'<p class="rv-warning" role="alert">{escape(text)}</p>'
    if asked == spec.name:
        return note + _terms(spec, [part.component for part in lost], size, language)
    return f"{note}{_do('get', spec.name, language('models.get', size=size))}"


def _terms(spec: ModelSpec, lost: list[Component], size: str, language: Language) -> str:
    terms = "".join(
        f'<p><b>{escape(term.name)}</b> <a href="{escape(term.url)}" target="_blank" '
        f'rel="noreferrer noopener">{escape(term.url)}</a><br>'
        f"{escape(language(f'licence.{term.name}'))}</p>"
        for term in dict.fromkeys(part.licence for part in lost)
    )
    return (
        f'<div class="rv-terms"><p>{escape(language("models.before", size=size))}</p>{terms}'
        f'<div class="rv-actions">{_do("accept", spec.name, language("models.accept"), "rv-go")}'
        f"{_do('decline', spec.name, language('models.decline'))}</div></div>"
    )


def _progress(spec: ModelSpec, download: Download, language: Language) -> str:
    size = max(download.size, 1)
    percent = min(100.0, 100 * download.done / size)
    text = language("models.fetching", done=in_words(download.done), size=in_words(download.size))
    return (
        f'<div class="rv-progress"><span>{escape(text)}</span><div class="rv-bar" '
        f'role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent:.0f}" '
        f'aria-label="{escape(text)}"><i style="width:{percent:.1f}%"></i></div>'
        f"{_do('stop', spec.name, language('models.stop'), 'rv-stop')}</div>"
    )


def _do(do: str, name: str, text: str, look: str = "") -> str:
    return (
        f'<button type="button" class="rv-button {look}" data-do="{do}" data-id="{escape(name)}">'
        f"{escape(text)}</button>"
    )


def memory_plan(plan: Mapping[str, Any], language: Language) -> str:
    """A memory plan as bars, one a phase, each as long as the card is large."""
    card = int(plan["vram"])
    rows = "".join(_phase(phase, card, language) for phase in plan["phases"])
    names = (*(name for name, _ in _PIECES), "free")
    legend = "".join(
        f'<li><i class="rv-swatch rv-fill-{name}"></i>{escape(language(f"memory.{name}"))}</li>'
        for name in names
    )
    short = plan["does_not_fit"]
    verdict = f'<p class="rv-note">{escape(language("memory.fits"))}</p>'
    if short:
        said = [say(language, Line.from_json(line)) for line in plan.get("said") or short]
        text = "".join(f"<li>{escape(line)}</li>" for line in said)
        verdict = f'<div class="rv-warning">{escape(language("memory.short"))}<ul>{text}</ul></div>'
    beside = language("memory.ram", ram=_gib(int(plan["ram"])), disk=in_words(int(plan["disk"])))
    title = f"{plan['model']} · {plan['size']} · {_gib(card)}"
    return (
        f'<div class="rv-plan"><h4>{escape(title)}</h4>{rows}<ul class="rv-legend">{legend}</ul>'
        f'{verdict}<p class="rv-facts">{escape(beside)}</p></div>'
    )


def _phase(phase: Mapping[str, Any], card: int, language: Language) -> str:
    place, bars = 0.0, ""
    for name, key in _PIECES:
        width = 100 * int(phase[key]) / card
        bars += (
            f'<rect class="rv-fill-{name}" x="{place:.2f}" y="0" width="{width:.2f}" height="10"/>'
        )
        place += width
    used = language("memory.of", used=_gib(int(phase["device"])), all=_gib(card))
    return (
        f'<div class="rv-phase"><span>{escape(_plan_word(language, str(phase["name"])))}</span>'
        f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(used)}">{bars}</svg><span>{escape(used)}</span></div>'
    )


def kernels(machine: Machine, language: Language) -> str:
    """Attention kernels and forms of weights: what runs here, why not, and what each is for."""
    why = f'<p class="rv-why">{escape(language("kernels.why"))}</p>'
    if machine.error:
        return f'{why}<p class="rv-warning">{escape(say(language, machine.error))}</p>'
    if machine.found is None:
        return f'{why}<p class="rv-note">{escape(language("kernels.looking"))}</p>'
    rows = "".join(
        f'<tr class="{"" if kernel["why_not"] else "rv-runs"}">'
        f'<th scope="row">{escape(str(kernel["name"]))}</th>'
        f"<td>{escape(_why_not(kernel, language) or language('kernels.ok'))}</td></tr>"
        for kernel in machine.found.get("attention", ())
    )
    forms = "".join(
        f'<tr><th scope="row">{name}</th><td>{escape(language(f"form.{name}"))}</td></tr>'
        for name in FORMS
    )
    devices = " · ".join(
        " ".join(str(device[key]) for key in ("device", "name") if device[key])
        for device in machine.found.get("devices", ())
    )
    attention = _table(language("how.attention"), rows)
    weights = _table(language("how.weights"), forms)
    return f'{why}<p class="rv-facts">{escape(devices)}</p>{attention}{weights}'


def _why_not(kernel: Mapping[str, Any], language: Language) -> str:
    return say(language, Line.from_json(kernel.get("said") or kernel["why_not"] or ""))


def _plan_word(language: Language, name: str) -> str:
    return language.words.get(f"plan.{name}", name)


def _table(title: str, rows: str) -> str:
    caption = f"<caption>{escape(title)}</caption>"
    return f'<table class="rv-kernels">{caption}<tbody>{rows}</tbody></table>'


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
