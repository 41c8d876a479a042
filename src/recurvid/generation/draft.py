"""A tiny decoder of the user's own (TAEHV's layout) for the looks at a section in the making."""

from __future__ import annotations

from pathlib import Path

from recurvid.checkpoints.formats import open_checkpoint
from recurvid.checkpoints.int8 import dequantized
from recurvid.errors import CheckpointError, InputError
from recurvid.generation.components import Components
from recurvid.generation.local import NO_DRAFT, Local
from recurvid.generation.runtime import side_dtype
from recurvid.settings import settings
from recurvid.vae.taehv_codec import TAEHVCodec, geometry_of
from recurvid.vae.taehv_file import find_config, load_taehv


def draft_file(local: Local, *, bundled: bool) -> Path | None:
    """The decoder that was asked for, else this machine's; the bundled model's own is small."""
    if local.draft_decoder is None:
        return None if bundled else settings().draft_decoder
    return None if local.draft_decoder == NO_DRAFT else Path(local.draft_decoder)


def use_draft(components: Components, file: Path | None) -> None:
    """Let looks come from a decoder that is loaded when the first is due; None changes nothing.

    In half precision it takes less than a tenth of what a memory plan leaves for gaps.

    Raises:
        InputError: no such file, or a decoder of other latents than the model makes.
        CheckpointError: a file of something else.
    """
    if file is None:
        return
    if not file.is_file():
        raise InputError(f"draft decoder {str(file)!r}: there is no such file")
    try:
        made_for = geometry_of(find_config(dequantized(open_checkpoint(file))))
    except CheckpointError as error:
        raise CheckpointError(f"draft decoder: {error}") from None
    needed = components.geometry
    if made_for != needed:
        raise InputError(
            f"draft decoder {str(file)!r}: decodes {made_for.channels} channels by "
            f"{made_for.temporal_stride}x{made_for.spatial_stride}, the model's latents have "
            f"{needed.channels} by {needed.temporal_stride}x{needed.spatial_stride}"
        )
    dtype = side_dtype(components.runtime)

    def load() -> TAEHVCodec:
        return load_taehv(file, device=components.device, dtype=dtype)

    components.draft = load
