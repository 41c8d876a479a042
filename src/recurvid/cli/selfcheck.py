"""``recurvid selfcheck``: does this machine make the video that it should?

A bundled picture, prompt and seed against frames that were committed with the weights. Bits differ
between processors, so frames are compared by PSNR; a broken kernel, a wrong build of torch or
damaged weights are far below the threshold.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from recurvid.cli.machine import DeviceOption
from recurvid.cli.options import JsonOption
from recurvid.cli.output import Output
from recurvid.errors import ComponentError
from recurvid.settings import settings


def selfcheck(
    device: DeviceOption = None,
    write: Annotated[bool, typer.Option("--write", hidden=True)] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a small video and compare it with the committed one."""
    from recurvid.cli import reference
    from recurvid.generation.runtime import pick_device

    output = Output(as_json)
    device = device or settings().device
    pick_device(device)  # refuses now what is not there
    output.note("making a small video; this takes about a minute on a CPU")
    with tempfile.TemporaryDirectory(prefix="recurvid-") as folder:
        frames, kind = reference.make(Path(folder), device)
        if write:
            reference.write(frames)
            output.note("the reference is written")
            return
        result = reference.compare(frames, kind)
    _tell(output, result)
    if not result["passed"]:
        raise ComponentError(
            f"the video differs from the reference: {result['worst']:.1f} dB where at least "
            f"{result['threshold']:.0f} are expected on {kind}; see `recurvid doctor`"
        )


def _tell(output: Output, result: dict[str, Any]) -> None:
    if output.as_json:
        output.record({"event": "selfcheck", **result})
        return
    for frame, psnr in result["psnr"].items():
        output.result.print(f"frame {frame}: {psnr:.1f} dB", markup=False)
    if result["passed"]:
        output.result.print("this machine makes the video that it should", markup=False)
