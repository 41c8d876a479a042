"""Local: what of a session concerns this machine, and the check of a file that holds it."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

_LONGEST = 32_768  # characters of the longest path that Windows knows
_WORDS = {str: "text", float: "a number", bool: "true or false", int: "a whole number"}
#: First and last steps of a section without rounded attention, unless one asks for others.
EXACT_STEPS = 1
#: As a draft decoder: none, whatever this machine has otherwise.
NO_DRAFT = "none"


@dataclass(frozen=True)
class Local:
    """What concerns this machine only; read from a session folder and from nowhere else.

    Attributes:
        output: absolute path of the result.
        overwrite: whether a file there may be replaced.
        replaces: what stood there when that was allowed (see ``finished.stamp``); a later resume
            replaces this and nothing else.
        metadata: whether the request is embedded in the result.
        device, dtype: as asked ("auto" included).
        offline: never touch the network.
        model: where the model's files are looked for, as the user said it; None for its name.
        vram: GiB of device memory to keep to; None for what is free.
        draft_decoder: absolute path of a tiny decoder for previews; None: this machine's, if any.
        attention, weights, compiled, exact_steps, sparse: how the backbone runs; see Runtime.
    """

    output: str
    overwrite: bool = False
    metadata: bool = True
    device: str = "auto"
    dtype: str = "auto"
    offline: bool = False
    model: str | None = None
    vram: float | None = None
    attention: str = "auto"
    weights: str = "auto"
    compiled: bool = False
    replaces: str | None = None
    exact_steps: int = EXACT_STEPS
    sparse: str = "none"
    draft_decoder: str | None = None

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Local:
        """Read a JSON object whose fields may be anything.

        Raises:
            ValueError: in one line: a field that is missing, unknown, or of another type.
        """
        hints = get_type_hints(Local)
        unknown = [name for name in values if name not in hints]
        if unknown:
            raise ValueError(f"has a field {ascii(unknown[0])[:60]}, which is not known")
        if "output" not in values:
            raise ValueError("has no field 'output'")
        checked = {name: _typed(name, value, hints[name]) for name, value in values.items()}
        return Local(**checked)


def _typed(name: str, value: Any, hint: Any) -> Any:
    wanted = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if value is None and types.NoneType in wanted:
        return None
    if float in wanted and type(value) is int and abs(value) < 2**53:
        value = float(value)
    fits = type(value) in wanted
    if isinstance(value, float):
        fits = fits and math.isfinite(value) and value > 0
    if isinstance(value, str):
        fits = fits and len(value) <= _LONGEST and "\0" not in value
    if not fits:
        words = " or ".join(_WORDS[kind] for kind in wanted if kind in _WORDS)
        raise ValueError(f"field {name!r} needs {words}, not {ascii(value)[:60]}")
    return value
