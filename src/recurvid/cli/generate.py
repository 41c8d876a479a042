"""``recurvid generate``: a picture and a prompt become a video."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from recurvid.checkpoints.known import KNOWN
from recurvid.checkpoints.locate import locate
from recurvid.cli.machine import draft_place, local_for, takes_machine
from recurvid.cli.options import (
    DraftOption,
    JsonOption,
    OutputOption,
    PreviewsOption,
    QuietOption,
    path,
    takes_request,
)
from recurvid.cli.output import Output
from recurvid.cli.stopping import says_how_to_resume
from recurvid.errors import InputError, OutputError, RecurVidError, SessionError
from recurvid.generation.defaults import resolved, spec_of, unresolved, video_size
from recurvid.generation.finished import stamp
from recurvid.generation.journal import Journal
from recurvid.generation.local import NO_DRAFT
from recurvid.generation.request import GenerationRequest
from recurvid.settings import settings

# No module here imports torch: the session folder stands before that takes its seconds.


@takes_request
@takes_machine
def generate(
    asked: dict[str, Any],
    how: dict[str, Any],
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The start picture.")],
    end_image: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            metavar="FILE",
            help="A picture that the video leads to. It then ends there, at the end of a whole "
            "section: --seconds is rounded up, and nothing is trimmed.",
        ),
    ] = None,
    out: OutputOption = None,
    session: Annotated[
        Path | None,
        typer.Option(
            parser=path, metavar="DIR", help="Session folder (default: one in the cache)."
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            parser=path, metavar="FILE", help="Take the settings from this video; options win."
        ),
    ] = None,
    no_metadata: Annotated[
        bool, typer.Option("--no-metadata", help="Do not embed the request in the video.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the result if it exists.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Never touch the network (it is not needed).")
    ] = False,
    previews: PreviewsOption = False,
    draft_decoder: DraftOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Turn a picture and a prompt into a video."""
    from recurvid.video.destination import destination

    output = Output(as_json, quiet)
    request, model = _request(asked, like)
    picture = Path(os.path.expanduser(image))
    place = _check_early(request, picture, end_image, out, overwrite=overwrite)
    local = local_for(
        place,
        how,
        overwrite=overwrite,
        replaces=stamp(destination(place)) if overwrite else None,
        metadata=not no_metadata,
        offline=offline,
        model=model,
        draft_decoder=draft_place(draft_decoder),
    )
    folder = Path(os.path.expanduser(session or _new_folder(picture))).absolute()
    if str(folder) != _as_text(str(folder)):
        raise SessionError(f"session folder {str(folder)!r}: is not valid text; choose another")
    with says_how_to_resume(folder):
        journal = Journal.create(folder, request, local, picture, end_image)
        run_session(output, journal, journal.discard, previews=previews)


def announce(output: Output, folder: Path) -> None:
    """Say where a session lives, once it is clear that it can run."""
    if output.as_json:
        output.record({"event": "session", "folder": str(folder)})
    output.note(f"session: {folder}")


def run_session(
    output: Output,
    journal: Journal,
    undo: Callable[[], None],
    *,
    force: bool = False,
    previews: bool = False,
) -> None:
    """Run a session to its end and show how it goes.

    Args:
        undo: takes back what this command has written, if what it asks for is impossible.
        force: go on although weights or code have changed.
        previews: keep a moving look at the section in the making.
    """
    # Imported here because all of it needs torch.
    from recurvid.cli.looks import NAME, kept
    from recurvid.cli.progress import show
    from recurvid.generation.opening import open_session

    try:
        looked = previews or journal.local.draft_decoder not in (None, NO_DRAFT)
        made = open_session(journal, force=force, previews=looked)
    except RecurVidError:
        undo()
        raise
    announce(output, journal.folder)
    if looked:
        output.note(f"previews: {journal.folder / NAME}")
    done = journal.finished_sections()
    at_end = journal.end_picture is not None and not made.plan.request.whole_sections
    remark = "not trimmed: it ends at the end picture" if at_end else ""
    finished = show(output, kept(made, made.run()) if looked else made.run(), done, remark)
    if not output.as_json:
        output.note(f"{finished.frames} frames, {finished.frames / finished.fps:.2f} s:")
        output.result.print(str(finished.video), markup=False)


def _request(asked: dict[str, Any], like: Path | None) -> tuple[GenerationRequest, str | None]:
    """The request, and where the model's files are if its name does not say so."""
    given = dict(asked)
    wanted = given.pop("model", None)
    base = GenerationRequest() if like is None else _request_in(like)
    where = None
    if wanted is not None and wanted != base.model:
        spec = locate(wanted).spec
        if base.model in KNOWN:
            base = unresolved(base, spec_of(base))
        base = base.but(model=spec.name)
        where = None if wanted in KNOWN else _absolute(wanted)
    if given.get("step_cache", base.step_cache) != base.step_cache:
        base = base.but(cache_threshold=None)  # it is on the other cache's scale
    request = base.but(**given)
    if where is None:
        locate(spec_of(request).name)  # says now if files are missing
    return request, where


def _request_in(video: Path) -> GenerationRequest:
    from recurvid.video.metadata import read_metadata

    found = read_metadata(video)
    if found is None or "request" not in found:
        raise InputError(f"--like {str(video)!r}: carries no request of RecurVid")
    return GenerationRequest.from_untrusted(found["request"])


def _absolute(model: str) -> str:
    """A model path, or NAME=PATH, that still holds when resumed from another folder."""
    name, separator, path = (
        model.rpartition("=") if model.split("=")[0] in KNOWN else ("", "", model)
    )
    there = Path(os.path.expanduser(path))
    return f"{name}{separator}{there.absolute() if there.exists() else path}"


def _check_early(
    request: GenerationRequest,
    picture: Path,
    end_picture: Path | None,
    out: str | None,
    *,
    overwrite: bool,
) -> str:
    """Everything that can be refused in the first second; returns the place of the result."""
    from recurvid.video.pictures import load_picture

    if end_picture is not None:
        load_picture(end_picture)
    return check_place(request, picture, out or _free_name(picture), overwrite=overwrite)


def check_place(request: GenerationRequest, picture: Path, place: str, *, overwrite: bool) -> str:
    """Make sure that the result can be written; returns its absolute place.

    Raises:
        InputError: it cannot, or the request or its picture are of no use.
    """
    from recurvid.video.destination import check_output
    from recurvid.video.encoders import VideoSettings, exact_fps
    from recurvid.video.pictures import load_picture

    filled = resolved(request, spec_of(request))
    assert filled.size is not None
    assert filled.fps is not None
    pixels = load_picture(picture)
    height, width = video_size(filled.size, (pixels.shape[0], pixels.shape[1]))
    video = VideoSettings(exact_fps(filled.fps), crf=filled.crf)
    if place != _as_text(place):
        raise OutputError(f"output {place!r}: is not valid text; choose another name")
    return str(check_output(place, video, height, width, overwrite=overwrite).path)


def _free_name(picture: Path) -> str:
    stem = _as_text(picture.stem) or "video"
    numbered = (Path(f"{stem}-{number}.mp4") for number in range(2, 10_000))
    plain = Path(f"{stem}.mp4")
    return str(plain if not plain.exists() else next(p for p in numbered if not p.exists()))


def _new_folder(picture: Path) -> Path:
    name = re.sub(r"[^\w-]+", "-", _as_text(picture.stem))[:40].strip("-") or "session"
    return settings().sessions / f"{name}-{secrets.token_hex(4)}"


def _as_text(name: str) -> str:
    """A file name with what is no text in it (bytes of an old encoding) replaced."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return text.replace("\N{REPLACEMENT CHARACTER}", "_")
