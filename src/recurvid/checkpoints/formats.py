"""open_checkpoint: any path that holds weights -> Checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from recurvid.checkpoints.checkpoint import Checkpoint, some
from recurvid.checkpoints.safetensors_files import (
    INDEX_SUFFIX,
    open_file,
    open_files,
    open_index,
    shard_group,
)
from recurvid.errors import CheckpointError

#: One line a format: the ending of its files and the function that opens one of them.
FORMATS: dict[str, Callable[[Path], Checkpoint]] = {
    INDEX_SUFFIX: open_index,
    ".safetensors": open_file,
}

#: Endings of formats that run code when they are read.
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")

#: What diffusers and transformers call the weights, before anything else in a folder.
_USUAL_NAMES = ("diffusion_pytorch_model", "model")


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a weights file, an index of shards, or the folder that holds either.

    Reads headers only: cost does not depend on the size of the weights.

    Raises:
        CheckpointError: nothing there, a pickle (never opened), or a damaged file.
    """
    path = Path(path)
    if path.is_dir():
        shards = [] if any(path.glob(f"*{INDEX_SUFFIX}")) else shard_group(path)
        return open_files(shards) if shards else open_checkpoint(weights_in(path))
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    if path.suffix.lower() in PICKLES:
        raise CheckpointError(
            f"{path}: a pickle can run any code when it is read and is never opened; "
            "use the .safetensors edition of these weights"
        )
    for ending, opener in FORMATS.items():
        if path.name.lower().endswith(ending):
            return opener(path)
    raise CheckpointError(f"{path}: not a kind of weights file that is known ({some(FORMATS)})")


def weights_in(folder: Path) -> Path:
    """The one weights file, or index, of a folder.

    Raises:
        CheckpointError: none, or several that could be meant.
    """
    indexes = sorted(folder.glob(f"*{INDEX_SUFFIX}"))
    files = sorted(folder.glob("*.safetensors"))
    for found in (indexes, files):
        usual = [p for p in found if p.name.split(".")[0] in _USUAL_NAMES]
        if len(found) == 1 or len(usual) == 1:
            return (usual or found)[0]
    if not files and not indexes:
        pickles = [p.name for p in sorted(folder.iterdir()) if p.suffix.lower() in PICKLES]
        if pickles:
            raise CheckpointError(
                f"{folder}: holds only pickles ({some(pickles)}), which are never opened; "
                "use the .safetensors edition of these weights"
            )
        raise CheckpointError(f"{folder}: no safetensors file in this folder")
    raise CheckpointError(
        f"{folder}: several weights files ({some([p.name for p in indexes or files])}); "
        "name the one that is meant"
    )
