"""``recurvid resume``: continue a session that was stopped, killed or finished."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from recurvid.cli.generate import check_place, run_session
from recurvid.cli.machine import draft_place, takes_machine
from recurvid.cli.options import (
    DraftOption,
    JsonOption,
    OutputOption,
    PreviewsOption,
    QuietOption,
    path,
)
from recurvid.cli.output import Output
from recurvid.cli.stopping import says_how_to_resume
from recurvid.generation.finished import finished_video, half_written, stamp
from recurvid.generation.journal import Journal, Local
from recurvid.generation.lock import folder_lock


@takes_machine
def resume(
    how: dict[str, Any],
    folder: Annotated[Path, typer.Argument(parser=path, metavar="DIR", help="The session folder.")],
    out: OutputOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the result if it exists.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Go on although weights, code or device changed.")
    ] = False,
    previews: PreviewsOption = False,
    draft_decoder: DraftOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Continue a session; what is finished is not made again."""
    output = Output(as_json, quiet)
    journal = Journal.open(Path(os.path.expanduser(folder)).absolute())
    with says_how_to_resume(journal.folder):
        before = journal.local
        if draft_decoder is not None:
            how = {**how, "draft_decoder": draft_place(draft_decoder)}
        _change_local(journal, out, how, overwrite=overwrite)
        done = finished_video(journal)
        if done is None:
            undo = partial(_write_local, journal, before)
            run_session(output, journal, undo, force=force, previews=previews)
        elif as_json:
            video = {"video": str(done.path), "frames": done.frames, "fps": done.fps}
            output.record({"event": "finished", **video})
        else:
            output.note("the session is finished:")
            output.result.print(str(done.path), markup=False)


def _change_local(
    journal: Journal, out: str | None, how: Mapping[str, Any], *, overwrite: bool
) -> None:
    """Keep what was asked now for this and later runs; other settings stay as they are.

    Raises:
        OutputError: the result cannot be written to ``out``; nothing has changed.
    """
    from recurvid.video.destination import destination

    before = journal.local
    place = destination(before.output if out is None else out)
    moved = str(place.path) != before.output
    if out is not None and moved:
        ours = half_written(journal, str(place.path))  # a run that was killed while writing it
        check_place(journal.request, journal.picture, out, overwrite=overwrite or ours)
    there = stamp(place)
    # What was allowed once holds for the file of that time, not for one that came since.
    still = before.overwrite and not moved and there is not None and there == before.replaces
    after = replace(
        before,
        output=str(place.path),
        overwrite=overwrite or still,
        replaces=there if overwrite or still else None,
        **how,
    )
    _write_local(journal, after)


def _write_local(journal: Journal, local: Local) -> None:
    if journal.local != local:
        with folder_lock(journal.folder):
            journal.write_local(local)
