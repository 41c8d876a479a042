"""GenerationRequest: everything that a user asks of one video.

The fields below are the only definition: command line options, API schema, form and journal are
derived from their metadata. Pictures, output paths and devices are no part of it: a request may
come out of someone else's video or from the network, and must not reach into this machine.

Nothing here imports torch: a session folder exists before that takes its seconds.
"""

from __future__ import annotations

import json
import math
import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from typing import Any, Union, get_args, get_origin, get_type_hints

from recurvid.caching.thresholds import OFF, THRESHOLDS
from recurvid.errors import RequestError

FORMAT = 1
ORDERS = ("inverted", "forward", "endpoint", "planned")
SOLVERS = ("unipc", "unipc-bh2", "unipc-logsnr", "euler", "heun")
NOISES = ("section", "sequential")
STEP_CACHES = (OFF, *THRESHOLDS)
LONGEST_TEXT = 10_000
_LARGEST_JSON = 200_000
_SIZE = re.compile(r"(\d{1,5})(?:x(\d{1,5}))?", re.ASCII)
_SMALLEST_SHIFT = 0.01
_MODEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class FieldLimits:
    """What beside its type a field must satisfy, and what a user reads about it.

    Attributes:
        help: one sentence.
        unit: of a number, "" where there is none.
        minimum, maximum: inclusive, None for no limit.
        choices: the only values allowed, empty for any.
        group: heading under which a help page or a form shows it.
        unset: whose default None stands for.
    """

    help: str
    unit: str = ""
    minimum: int | float | None = None
    maximum: int | float | None = None
    choices: tuple[str, ...] = ()
    group: str = "Video"
    unset: str = "the model's"


def _field(default: Any, limits: FieldLimits) -> Any:
    return field(default=default, metadata={"limits": limits})


@dataclass(frozen=True)
class GenerationRequest:
    """All that a user asks. None stands for "what the model is made for".

    Raises:
        RequestError: naming the field, from the constructor and every way to read one.
    """

    prompt: str = _field("", FieldLimits("What happens in the video."))
    negative_prompt: str = _field(
        "", FieldLimits("What should not appear. Used when the CFG scale is not 1.")
    )
    seconds: float = _field(5.0, FieldLimits("Length of the video.", "s", 0.01, 86_400))
    seed: int = _field(
        31337, FieldLimits("Same seed, request and machine: same video.", "", 0, 2**63 - 1)
    )
    model: str = _field("bundled", FieldLimits("Name of the model; `recurvid models` lists them."))
    size: str | None = _field(
        None,
        FieldLimits("Base size (the picture's shape is kept) such as 640, or WIDTHxHEIGHT.", "px"),
    )
    fps: float | None = _field(None, FieldLimits("Frames per second.", "fps", 1, 240))
    whole_sections: bool = _field(
        False,
        FieldLimits("Round the length to whole sections as the original does; trim nothing."),
    )
    crf: int = _field(
        16, FieldLimits("Quality of the file: lower is better and larger.", "", 0, 51)
    )
    crossfade: bool = _field(
        False,
        FieldLimits("Decode as the original does, two sections at a time and cross-faded."),
    )
    steps: int | None = _field(
        None, FieldLimits("Denoising steps of each section.", "", 1, 1000, group="Sampling")
    )
    solver: str | None = _field(
        None, FieldLimits("Solver of the flow.", choices=SOLVERS, group="Sampling")
    )
    shift: float | None = _field(
        None,
        FieldLimits(
            "Shift of the noise levels, from 0.01 on; 0 derives it from the number of tokens.",
            minimum=0,
            maximum=100,
            group="Sampling",
        ),
    )
    guidance_scale: float | None = _field(
        None,
        FieldLimits(
            "Distilled guidance, for models that have it.",
            minimum=0,
            maximum=100,
            group="Sampling",
        ),
    )
    cfg_scale: float | None = _field(
        None,
        FieldLimits(
            "Classifier-free guidance in two passes; 1 is off.",
            minimum=0,
            maximum=100,
            group="Sampling",
        ),
    )
    cfg_rescale: float = _field(
        0.0,
        FieldLimits(
            "How far CFG is scaled back to the contrast of the guided pass.",
            minimum=0,
            maximum=1,
            group="Sampling",
        ),
    )
    noise: str = _field(
        "section",
        FieldLimits(
            "Noise by seed and section, or drawn in sequence as the original does.",
            choices=NOISES,
            group="Sampling",
        ),
    )
    step_cache: str = _field(
        OFF,
        FieldLimits(
            "Skip what the model would hardly change from step to step: faster, another picture.",
            choices=STEP_CACHES,
            group="Sampling",
        ),
    )
    cache_threshold: float | None = _field(
        None,
        FieldLimits(
            "How much change the step cache lets pass: higher is faster and rougher, 0 is exact.",
            minimum=0,
            maximum=10,
            group="Sampling",
            unset="the cache's",
        ),
    )
    order: str | None = _field(
        None, FieldLimits("Order of the sections.", choices=ORDERS, group="Sections")
    )
    schedule: str | None = _field(
        None,
        FieldLimits("Packing schedule, such as f1k1_x_g9_f1k1f2k2f16k4_td.", group="Sections"),
    )
    exact_gaps: bool = _field(
        False,
        FieldLimits("Tell the model its true distance to the start picture.", group="Sections"),
    )

    def __post_init__(self) -> None:
        """Check every field; numbers given as int where a float belongs are converted."""
        for name, value in _checked({f.name: getattr(self, f.name) for f in fields(self)}).items():
            object.__setattr__(self, name, value)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, every field, with the format's number first."""
        return {"format": FORMAT, **asdict(self)}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> GenerationRequest:
        """Read what :meth:`to_json` wrote, or any JSON object of known fields.

        It is safe on data from strangers: known fields only, checked types, bounded sizes, no
        paths. What it names (a model) must still be present before anything uses it.
        """
        known = {spec.name for spec in fields(GenerationRequest)}
        given = dict(values)
        number = given.pop("format", FORMAT)
        if type(number) is not int or number != FORMAT:
            raise RequestError(
                f"format: this request has format {str(number)[:20]!r}, this version of "
                f"RecurVid reads {FORMAT}; update RecurVid",
                "request.later",
            )
        for name in given:
            if name not in known:
                raise RequestError(
                    f"{str(name)[:60]!r} is not a field of a request",
                    "field.unknown",
                    name=str(name)[:60],
                )
        return GenerationRequest(**_checked(given))

    @staticmethod
    def from_untrusted(values: object) -> GenerationRequest:
        """A request out of a video, a preset or the network: text or parsed JSON."""
        if isinstance(values, str | bytes):
            if len(values) > _LARGEST_JSON:
                raise RequestError(
                    f"the request is too large ({len(values)} bytes)", "request.broken"
                )
            try:
                values = json.loads(values)
            except (ValueError, RecursionError) as error:
                raise RequestError(
                    f"the request is not JSON: {str(error)[:100]}", "request.broken"
                ) from None
        if not isinstance(values, Mapping):
            raise RequestError("a request is a JSON object of fields", "request.broken")
        return GenerationRequest.from_json(values)

    def but(self, **changes: Any) -> GenerationRequest:
        """The same request with some fields replaced."""
        return replace(self, **changes)


def request_fields() -> tuple[Field[Any], ...]:
    """The fields in the order in which a user meets them."""
    return fields(GenerationRequest)


def limits_of(spec: Field[Any]) -> FieldLimits:
    """Help, unit and limits of one field."""
    limits = spec.metadata["limits"]
    assert isinstance(limits, FieldLimits)
    return limits


def default_of(spec: Field[Any]) -> Any:
    """The default of one field."""
    assert spec.default is not MISSING
    return spec.default


def parse_size(text: str) -> int | tuple[int, int]:
    """``"640"`` is a base size, ``"832x480"`` is (width, height), both in pixels.

    Raises:
        RequestError: anything else, or a side outside 16..8192.
    """
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None:
        raise RequestError(
            f"size: {text[:40]!r} is neither a number such as 640 nor WIDTHxHEIGHT",
            "size.form",
            value=text[:40],
        )
    sides = [int(side) for side in match.groups() if side is not None]
    if any(not 16 <= side <= 8192 for side in sides):
        raise RequestError(
            f"size: {text[:40]!r} has a side outside 16 to 8192 pixels",
            "size.sides",
            value=text[:40],
            least=16,
            most=8192,
        )
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of some fields, checked and brought to their types."""
    hints = get_type_hints(GenerationRequest)
    limits = {spec.name: limits_of(spec) for spec in fields(GenerationRequest)}
    checked: dict[str, Any] = {}
    for name, given in values.items():
        value = checked[name] = _typed(name, given, hints[name])
        if value is not None:
            _check_limits(name, value, limits[name])
    if isinstance(size := checked.get("size"), str):
        sides = parse_size(size)
        checked["size"] = str(sides) if isinstance(sides, int) else f"{sides[0]}x{sides[1]}"
    if 0 < (checked.get("shift") or 0) < _SMALLEST_SHIFT:
        raise RequestError(
            f"shift: {checked['shift']:g} is below the smallest, {_SMALLEST_SHIFT:g}; "
            "0 derives it from the number of tokens",
            "field.small",
            field="shift",
            value=f"{checked['shift']:g}",
            least=f"{_SMALLEST_SHIFT:g}",
        )
    if isinstance(model := checked.get("model"), str) and not _MODEL.fullmatch(model):
        raise RequestError(
            f"model: {model[:80]!r} is not a model name; `recurvid models` lists them",
            "model.unknown",
            model=model[:80],
        )
    return checked


def _typed(name: str, value: Any, hint: Any) -> Any:
    wanted = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if type(value) in wanted and not (isinstance(value, float) and not math.isfinite(value)):
        return value
    if value is None and types.NoneType in wanted:
        return None
    if float in wanted and type(value) is int and abs(value) < 2**53:
        return float(value)
    if int in wanted and type(value) is float and value.is_integer() and abs(value) < 2**53:
        return int(value)
    words = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    kinds = [kind for kind in wanted if kind is not types.NoneType]
    said = " or ".join(words[kind] for kind in kinds)
    raise RequestError(
        f"{name}: needs {said}, not {str(value)[:40]!r}",
        "field.kind",
        field=name,
        kind=kinds[0].__name__,
        value=str(value)[:40],
    )


def _check_limits(name: str, value: Any, limits: FieldLimits) -> None:
    if isinstance(value, str):
        if len(value) > LONGEST_TEXT:
            raise RequestError(
                f"{name}: {len(value)} characters; at most {LONGEST_TEXT} are read",
                "field.long",
                field=name,
                size=len(value),
                most=LONGEST_TEXT,
            )
        if "\0" in value:
            raise RequestError(f"{name}: contains a zero byte", "field.broken", field=name)
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise RequestError(
                f"{name}: is not valid text (a lone surrogate)", "field.broken", field=name
            ) from None
        if limits.choices and value not in limits.choices:
            raise RequestError(
                f"{name}: {value[:40]!r} is unknown; one of {', '.join(limits.choices)}",
                "field.choice",
                field=name,
                value=value[:40],
                choices=", ".join(limits.choices),
            )
        return
    if isinstance(value, bool):
        return
    unit = f" {limits.unit}" if limits.unit else ""
    if limits.minimum is not None and value < limits.minimum:
        raise RequestError(
            f"{name}: {value:g} is below the smallest, {limits.minimum:g}{unit}",
            "field.small",
            field=name,
            value=f"{value:g}",
            least=f"{limits.minimum:g}",
        )
    if limits.maximum is not None and value > limits.maximum:
        raise RequestError(
            f"{name}: {value:g} is above the largest, {limits.maximum:g}{unit}",
            "field.large",
            field=name,
            value=f"{value:g}",
            most=f"{limits.maximum:g}",
        )
