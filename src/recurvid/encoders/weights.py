"""Weights of an encoder -> its transformers module, strictly, whatever the file's dialect.

Folders as the hub has them and single files as ComfyUI's users have them, through one path; names
follow the installed transformers (CLIP and SigLIP lost their outer level in 5.6).
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recurvid.checkpoints.checkpoint import Checkpoint, some, source_name
from recurvid.checkpoints.dialects import flattened
from recurvid.checkpoints.formats import open_checkpoint
from recurvid.checkpoints.fp8 import descaled
from recurvid.checkpoints.keymap import IDENTITY, KeyMap
from recurvid.errors import CheckpointError

_OUTER = ("text_model.", "vision_model.")


def open_flat(path: Path, dialect: KeyMap) -> Checkpoint:
    """A folder or file of weights, without the outer level of its names."""
    return flattened(descaled(open_checkpoint(path)), dialect)


def read_config(config_class: Any, path: Path, built_in: dict[str, Any]) -> Any:
    """``config.json`` of a folder; for a single file, which has none, the released model's.

    Raises:
        CheckpointError: the folder's configuration is missing or of another kind.
    """
    if not path.is_dir():
        return config_class(**built_in)
    try:
        return config_class.from_pretrained(str(path), local_files_only=True)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path / 'config.json'}: {_first_line(error)}") from error


def fill(
    model_class: Any,
    config: Any,
    checkpoint: Checkpoint,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
) -> Any:
    """Build a transformers model and fill it with a flat checkpoint (see ``open_flat``).

    Returns:
        The model in evaluation mode on its device, no gradients asked for.

    Raises:
        CheckpointError: a tensor is missing, left over or of another shape; names it and its file.
    """
    where = source_name(checkpoint)
    try:
        with torch.device("meta"):
            skeleton: nn.Module = model_class(config)
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        raise CheckpointError(
            f"{where}: its config makes no model: {_first_line(error)}"
        ) from error
    names = {_flat(name): name for name in skeleton.state_dict()}
    shapes = {_flat(name): tuple(value.shape) for name, value in skeleton.state_dict().items()}
    checkpoint = IDENTITY.apply(checkpoint, shapes)
    _check_types(checkpoint)
    # cast here: transformers 4.50 leaves some of a file of several number types as they are
    state = {native: checkpoint.tensor(flat).to(dtype) for flat, native in names.items()}
    try:
        with _quiet():
            model, report = model_class.from_pretrained(
                None,
                config=config,
                state_dict=state,
                torch_dtype=dtype,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{where}: cannot be loaded: {_first_line(error)}") from error
    lost = [*report["missing_keys"], *report["unexpected_keys"]]
    if lost:  # the names were checked, so only a transformers that renames differently gets here
        raise CheckpointError(f"{where}: this transformers does not place {some(sorted(lost))}")
    return model.to(device).eval().requires_grad_(False)


def free(device: torch.device | str) -> None:
    """Give back the memory of models that nobody holds any more."""
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()


def _flat(name: str) -> str:
    for outer in _OUTER:
        name = name.removeprefix(outer)
    return name


def _check_types(checkpoint: Checkpoint) -> None:
    for name in checkpoint.keys():  # noqa: SIM118 (a Checkpoint is no dict)
        if not checkpoint.dtype(name).is_floating_point:
            raise CheckpointError(
                f"{checkpoint.file_of(name)}: tensor {name} is {checkpoint.dtype(name)}; "
                "use the fp16 or bf16 edition of this encoder"
            )


@contextmanager
def _quiet() -> Generator[None]:
    """Without transformers' own progress bar; ours is drawn from events."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
