"""``recurvid info``: what a schedule, a plan, a video or a session holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from recurvid.cli.options import JsonOption, takes_request
from recurvid.cli.output import Output
from recurvid.errors import InputError, ScheduleError
from recurvid.generation.defaults import spec_of, video_size
from recurvid.generation.journal import Journal
from recurvid.generation.request import GenerationRequest

_WIDEST = 200


@takes_request
def info(
    asked: dict[str, Any],
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[WHAT]",
            help="A packing schedule, a video, or a session folder; without it, the plan that "
            "the options ask for.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show tokens, frames and order of a schedule or plan, or what made a video."""
    output = Output(as_json)
    if what is None:
        _plan(output, GenerationRequest().but(**asked))
    elif Path(what).is_dir() and (Path(what) / "request.json").exists():
        _session(output, Path(what))
    elif not what or (Path(what).is_dir() and not any(Path(what).glob("*.png"))):
        raise InputError(
            f"{what!r}: neither a session folder nor one of PNG frames, nor a file or a schedule"
        )
    elif Path(what).exists():
        _video(output, Path(what))
    elif Path(what).suffix or "/" in what:
        raise InputError(f"{what!r}: no such file")
    else:
        _schedule(output, what, asked)


def _schedule(output: Output, text: str, asked: dict[str, Any]) -> None:
    from recurvid.cli.drawing import schedule_table
    from recurvid.packing import PackingSchedule

    try:
        schedule = PackingSchedule.parse(text)
    except ScheduleError as error:
        if not output.as_json:
            output.notes.print(_pointed(error), markup=False)
        raise
    request = GenerationRequest().but(**{"size": "832x480", **asked})
    height, width = video_size(request.size or "832x480", (480, 832))
    tokens = schedule.tokens(height, width)
    if output.as_json:
        output.record(
            {
                "schedule": str(schedule),
                "direction": schedule.direction,
                "generated": schedule.generated,
                "history_frames": schedule.history_frames,
                "anchor_frames": schedule.anchor_frames,
                "width": width,
                "height": height,
                "tokens": {**tokens.groups, "total": tokens.total},
            }
        )
        return
    output.result.print(schedule_table(schedule, tokens, height, width))


def _pointed(error: ScheduleError) -> str:
    """The schedule with its caret, where it fits a screen; its characters one column each."""
    from recurvid.cli.tables import printable

    text = printable(error.text).replace("\n", "\N{REPLACEMENT CHARACTER}")[:_WIDEST]
    return f"{text}\n{' ' * min(error.position, _WIDEST)}^"


def _plan(output: Output, request: GenerationRequest) -> None:
    from recurvid.cli.drawing import plan_drawing
    from recurvid.generation.video_plan import plan_video
    from recurvid.latents import LatentGeometry

    spec = spec_of(request)
    # Without a picture the model's usual shape: 16:9 or what --size says.
    plan = plan_video(request, spec, (9, 16), LatentGeometry())
    if output.as_json:
        output.record({**plan.to_json(), "tokens": _tokens(plan)})
        return
    output.result.print(plan_drawing(plan))


def _tokens(plan: Any) -> dict[str, int]:
    counted = plan.schedule.tokens(plan.height, plan.width)
    return {**counted.groups, "total": counted.total}


def _session(output: Output, folder: Path) -> None:
    journal = Journal.open(folder.absolute())
    done = journal.finished_sections()
    planned = None
    if journal.has("plan.json"):
        from recurvid.generation.video_plan import VideoPlan

        planned = VideoPlan.from_json(journal.read_json("plan.json"))
    sections = None if planned is None else len(planned.sections.sections)
    segments = [segment.frames for segment in journal.segments()]
    end = planned.frames if planned else 0
    frames = sum(len(found) for found in segments if found.stop <= end)
    request = (journal.request if planned is None else planned.request).to_json()
    values: dict[str, Any] = {
        "folder": str(journal.folder),
        "request": request,
        "output": journal.local.output,
        "sections": sections,
        "sections_done": done,
        "frames": None if planned is None else planned.frames,
        "frames_done": frames,
        "finished": journal.has("finished.json"),
    }
    if output.as_json:
        output.record(values)
        return
    from recurvid.cli.tables import request_table

    state = "finished" if values["finished"] else f"{done} of {sections or '?'} sections are done"
    output.result.print(request_table(request))
    output.result.print(f"{state}; {frames} frames are on disk", markup=False)
    output.result.print(f"result: {values['output']}", markup=False)


def _video(output: Output, path: Path) -> None:
    from recurvid.video.metadata import read_metadata
    from recurvid.video.reader import probe

    found = read_metadata(path)
    video = None if path.is_dir() else probe(path)
    values: dict[str, Any] = {"video": str(path)}
    if video is not None:
        values |= {
            "frames": video.frames,
            "fps": float(video.fps),
            "seconds": video.seconds,
            "width": video.width,
            "height": video.height,
            "codec": video.codec,
        }
    request = None
    if found is not None and "request" in found:
        request = GenerationRequest.from_untrusted(found["request"])
        values |= {"made_by": str(found.get("version", "?"))[:40], "request": request.to_json()}
    if output.as_json:
        output.record(values)
        return
    _print_video(output, values, request)


def _print_video(output: Output, values: dict[str, Any], request: GenerationRequest | None) -> None:
    from recurvid.cli.tables import printable, request_table

    if "frames" in values:
        output.result.print(
            f"{values['frames']} frames at {values['fps']:g} fps = {values['seconds']:.2f} s, "
            f"{values['width']}x{values['height']}, {values['codec']}",
            markup=False,
        )
    if request is None:
        output.result.print("no request of RecurVid in it", markup=False)
        return
    maker = " ".join(printable(values["made_by"]).split())
    output.result.print(f"made by RecurVid {maker} from", markup=False)
    output.result.print(request_table(request.to_json()))
