"""Presets: named settings, some given and some saved by users, in one file under the home folder.

Names are shown and never become part of a path. A preset holds how a video is made, not what it
shows: prompt, seed and seconds stay as they are in the form.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recurvid import durable
from recurvid.errors import InputError, RequestError
from recurvid.generation.request import GenerationRequest
from recurvid.gui.replay import checked

GIVEN: dict[str, dict[str, Any]] = {
    "draft": {"size": "320", "steps": 12, "step_cache": "teacache", "crf": 23},
    "usual": {},
    "final": {"step_cache": "off", "crf": 14},
}
"""By the second half of their word (``preset.draft``)."""

KEPT_IN_FORM = ("prompt", "negative_prompt", "seconds", "seed", "model")
_MOST, _LONGEST_NAME, _LARGEST = 200, 60, 4_000_000


class Presets:
    """The presets of one home folder, by owner.

    Args:
        file: JSON; made when the first preset is saved.
    """

    def __init__(self, file: Path):
        self._file = file
        self._lock = threading.Lock()

    def names(self, owner: str) -> list[str]:
        """Names of the saved ones."""
        return sorted(self._read().get(owner, {}))

    def apply(self, name: str, form: GenerationRequest, owner: str) -> GenerationRequest:
        """The form's request with a preset's settings.

        Raises:
            InputError: no such preset, or one that is not understood any more.
        """
        if name in GIVEN:
            given: Mapping[str, Any] = GIVEN[name]
        else:
            saved = self._read().get(owner, {})
            if name not in saved:
                raise InputError(f"there is no preset {name[:60]!r}", "preset.none", name=name[:60])
            given = saved[name]
        kept = {field: getattr(form, field) for field in KEPT_IN_FORM}
        return checked(GenerationRequest.from_untrusted({**given, **kept}))

    def save(self, name: str, form: GenerationRequest, owner: str) -> str:
        """Keep the form's settings under a name; returns the name as kept.

        Raises:
            InputError: no name, one that is given already, or too many presets.
        """
        name = " ".join("".join(c if c.isprintable() else " " for c in name).split())
        name = name[:_LONGEST_NAME].strip()
        if not name or name in GIVEN:
            raise InputError("preset: give it a name of its own", "preset.name")
        values = {k: v for k, v in form.to_json().items() if k not in KEPT_IN_FORM}
        with self._lock:
            everything = self._read()
            own = {**everything.get(owner, {}), name: values}
            if len(own) > _MOST:
                raise InputError(
                    f"preset: {_MOST} are kept at most; delete one first", "preset.many", most=_MOST
                )
            self._write({**everything, owner: own})
        return name

    def delete(self, name: str, owner: str) -> None:
        """Forget a saved preset; nothing happens if there is none.

        Raises:
            InputError: it is one of those that are given.
        """
        if name in GIVEN:
            raise InputError("preset: those that are given stay", "preset.given")
        with self._lock:
            everything = self._read()
            own = {key: value for key, value in everything.get(owner, {}).items() if key != name}
            self._write({**everything, owner: own})

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            if self._file.stat().st_size > _LARGEST:
                return {}
            found = json.loads(self._file.read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(found, dict):
            return {}
        return {str(k): dict(v) for k, v in found.items() if isinstance(v, dict)}

    def _write(self, everything: Mapping[str, Any]) -> None:
        text = json.dumps(everything, ensure_ascii=False, indent=1)
        durable.write_text(self._file, text)


def check_name(name: object) -> str:
    """A name as the browser sends it.

    Raises:
        RequestError: no text.
    """
    if not isinstance(name, str) or not name:
        raise RequestError("preset: choose one first", "preset.choose")
    return name
