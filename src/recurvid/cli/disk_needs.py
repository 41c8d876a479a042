"""What a run asks of the disk beside the session, and how much of it is there already."""

from __future__ import annotations

from dataclasses import dataclass

from recurvid.checkpoints.known import ModelSpec
from recurvid.checkpoints.locate import find, search_roots, status
from recurvid.errors import CheckpointError
from recurvid.generation.placing import CAST_IN_MEMORY, converted_folder
from recurvid.generation.runtime import Runtime, dtype_for
from recurvid.models.converted import Conversion
from recurvid.ops.linear.forms import AUTO


@dataclass(frozen=True)
class OnDisk:
    """Bytes that have still to be written, and that are there."""

    missing: int
    there: int


def model_files(spec: ModelSpec) -> OnDisk:
    """The files that a model is fetched as."""
    parts = status(spec)
    return OnDisk(
        sum(part.component.size for part in parts if part.path is None),
        sum(part.size for part in parts if part.path is not None),
    )


def converted_weights(spec: ModelSpec, runtime: Runtime, size: int) -> OnDisk:
    """The file of weights in another form, which is written once and kept.

    Args:
        size: of that file, by arithmetic; 0 where only the model's files can tell.
    """
    transformer = find(spec.component("transformer"), search_roots()).path
    if transformer is None:
        return OnDisk(size, 0)
    try:
        conversion = Conversion(transformer, runtime.weights, dtype_for(runtime, small=False))
    except CheckpointError:
        return OnDisk(size, 0)  # damaged files: fetched anew, and then written
    if conversion.form == AUTO and conversion.size <= CAST_IN_MEMORY:
        return OnDisk(0, 0)
    if conversion.is_in(converted_folder()):
        return OnDisk(0, (converted_folder() / conversion.file_name).stat().st_size)
    return OnDisk(size or conversion.size, 0)
