"""VideoPlan: a request turned into sections, frames and a size, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recurvid.checkpoints.known import ModelSpec
from recurvid.errors import RecurVidError, RequestError, SessionError
from recurvid.events import Planned
from recurvid.generation.defaults import resolved, video_size
from recurvid.generation.request import GenerationRequest
from recurvid.latents import LatentGeometry
from recurvid.packing import PackingSchedule
from recurvid.planning import ORDERS, Duration, duration, implied_order, plan
from recurvid.sections import Section, SectionPlan

#: Most tokens of a section; FramePack at 480p has 18,000, and attention grows with the square.
MOST_TOKENS = 1_000_000
#: Frames from which on a section may not be ten times as long as the whole video.
LONG_SECTION = 1_000


@dataclass(frozen=True)
class VideoPlan:
    """What will be made.

    Attributes:
        request: with every default filled in.
        sections: in order of generation.
        frames: pixel frames of the result, counted from the start of the timeline.
        height, width: of the video, in pixels.
    """

    request: GenerationRequest
    sections: SectionPlan
    frames: int
    height: int
    width: int

    @property
    def fps(self) -> float:
        """Frames a second."""
        assert self.request.fps is not None
        return self.request.fps

    @property
    def schedule(self) -> PackingSchedule:
        """The packing schedule."""
        return PackingSchedule.parse(self.sections.schedule)

    def event(self) -> Planned:
        """What is said before anything starts."""
        sections = len(self.sections.sections)
        return Planned(sections, self.frames, self.fps, self.height, self.width)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "request": self.request.to_json(),
            "frames": self.frames,
            "height": self.height,
            "width": self.width,
            "order": self.sections.order,
            "schedule": self.sections.schedule,
            "latent_frames": self.sections.latent_frames,
            "given": list(self.sections.given),
            "sections": [_section_to_json(section) for section in self.sections.sections],
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> VideoPlan:
        """Read what :meth:`to_json` wrote.

        Raises:
            SessionError: it is something else.
        """
        try:
            if values["order"] not in ORDERS:
                raise ValueError(f"unknown order {str(values['order'])[:40]!r}")
            sections = SectionPlan(
                order=values["order"],
                schedule=str(PackingSchedule.parse(values["schedule"])),
                sections=tuple(_section_from_json(section) for section in values["sections"]),
                latent_frames=_whole(values["latent_frames"]),
                given=_wholes(values["given"]),
            )
            request = GenerationRequest.from_json(values["request"])
            if None in (request.fps, request.steps, request.solver):
                raise ValueError("its request is not filled in")
            frames, height, width = (_whole(values[name]) for name in ("frames", "height", "width"))
            return VideoPlan(request, sections, frames, height, width)
        except (KeyError, TypeError, ValueError, AttributeError, RecurVidError) as error:
            raise SessionError(f"plan.json is not a plan ({error})") from None


def plan_video(
    request: GenerationRequest,
    spec: ModelSpec,
    picture_size: tuple[int, int],
    geometry: LatentGeometry,
    *,
    end_picture: bool = False,
) -> VideoPlan:
    """Turn a request into a plan.

    Args:
        picture_size: (height, width) of the start picture, which chooses the bucket.
        geometry: of the model's autoencoder.
        end_picture: whether the video ends at a given picture; then nothing is trimmed, because
            the trimmed part would be the end that was asked for.

    Raises:
        InputError: a field that the model or the planner cannot do, naming it.
    """
    if request.schedule is not None and request.order is None:
        request = request.but(order=implied_order(PackingSchedule.parse(request.schedule)))
    filled = resolved(request, spec)
    assert filled.schedule is not None
    assert filled.order is not None
    assert filled.fps is not None
    assert filled.size is not None
    if filled.crossfade and filled.order not in ("inverted", "forward"):
        raise RequestError("crossfade: only the orders inverted and forward were ever faded so")
    height, width = video_size(filled.size, picture_size)
    schedule = PackingSchedule.parse(filled.schedule)
    length = duration(
        filled.seconds, filled.fps, schedule, geometry, whole_sections=filled.whole_sections
    )
    _refuse_absurd(schedule, length, height, width, geometry)
    sections = plan(
        filled.order,
        schedule,
        length.sections,
        exact_gaps=filled.exact_gaps,
        end_picture=end_picture,
    )
    frames = length.generated_frames if end_picture else length.frames
    return VideoPlan(filled, sections, frames, height, width)


def _refuse_absurd(
    schedule: PackingSchedule, length: Duration, height: int, width: int, geometry: LatentGeometry
) -> None:
    """Raise for a section that no machine could make, or that makes far more than was asked."""
    tokens = schedule.tokens(height, width, spatial_stride=geometry.spatial_stride).total
    if tokens > MOST_TOKENS:
        raise RequestError(
            f"schedule: {schedule} takes {tokens} tokens a section at {width}x{height}; "
            f"at most {MOST_TOKENS} are run"
        )
    made = schedule.generated * geometry.temporal_stride
    if made > LONG_SECTION and made > 10 * length.frames:
        raise RequestError(
            f"schedule: g{schedule.generated} makes {made} frames a section, and the video has "
            f"{length.frames}; take a smaller gN"
        )


def _section_to_json(section: Section) -> dict[str, Any]:
    return {
        "index": section.index,
        "target": [section.target.start, section.target.stop],
        "gap": section.gap,
        "history": list(section.history),
        "anchors": list(section.anchors),
        "prompt": section.prompt,
        "lead": list(section.lead),
    }


def _section_from_json(values: Mapping[str, Any]) -> Section:
    start, stop = _wholes(values["target"])
    return Section(
        index=_whole(values["index"]),
        target=range(start, stop),
        gap=_whole(values["gap"]),
        history=_wholes(values["history"]),
        anchors=_wholes(values["anchors"]),
        prompt=_whole(values["prompt"]),
        lead=_wholes(values["lead"]),
    )


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{str(value)[:40]!r} is not a whole number")
    return value


def _wholes(values: Any) -> tuple[int, ...]:
    return tuple(_whole(value) for value in values)
