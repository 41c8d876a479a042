"""Weights as they will be used, in a file of their own: made once, then mapped like any others.

A model of 13 billion weights that is rounded to 8 bits in memory takes 9 GB there, and one that is
cast 26. So what the source does not hold in the form that runs (rounded matrices with their scales,
tensors of another number type) is written to a file, one layer in memory at a time; everything else
still comes from the source.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from recurvid.checkpoints.checkpoint import Checkpoint, files_of, source_name
from recurvid.checkpoints.safetensors_files import open_file
from recurvid.checkpoints.writing import sampled_digest, write_streamed
from recurvid.errors import CheckpointError, ComponentError
from recurvid.models.loading import native, skeleton
from recurvid.models.packed_dit.config import PackedDiTConfig
from recurvid.models.packed_dit.model import PackedDiT
from recurvid.models.quantized import rounded_in
from recurvid.ops.linear.forms import AUTO, FORMS, convert

#: Part of each file's name. Another number where the same weights would be rounded otherwise.
EDITION = 2
#: Files that were begun so long ago were left behind by a process that is gone.
_STALE_SECONDS = 3600

logger = logging.getLogger(__name__)


class Conversion:
    """A backbone's weights in another form or number type.

    Args:
        source: a weights file, an index, their folder, or an open Checkpoint.
        form: of the wide layers, a name in FORMS, or AUTO to leave them as they are.
        dtype: of everything else.

    Raises:
        CheckpointError: as ``load_backbone``; nothing but headers is read.
    """

    def __init__(
        self,
        source: Checkpoint | str | Path,
        form: str,
        dtype: torch.dtype,
        config: PackedDiTConfig | None = None,
    ):
        self.source, self.config = native(source, config)
        self.form, self.dtype = form, dtype
        self._layers = _wide_layers(self._empty(convert_too=False), form)
        #: What the source does not hold as it is needed: what a file of this conversion holds.
        self.layout: Mapping[str, Tensor] = {
            name: tensor
            for name, tensor in self._empty().state_dict().items()
            if not self._has(name, tensor)
        }

    @property
    def size(self) -> int:
        """Bytes that are made, on disk or in memory; 0 where the source serves as it is."""
        return sum(tensor.nbytes for tensor in self.layout.values())

    @cached_property
    def file_name(self) -> str:
        """Of the file that holds them; another one for other weights, another form or edition."""
        kind = str(self.dtype).removeprefix("torch.")
        form = kind if self.form == AUTO else f"{self.form}-{kind}"
        files = files_of(self.source)
        return f"{files[0].stem}-{form}-{EDITION}-{sampled_digest(files)}.safetensors"

    def is_in(self, folder: Path) -> bool:
        """Whether the file is there, whole and as it should be."""
        path = folder / self.file_name
        if not path.is_file():
            return False
        try:
            self._check(open_file(path))
        except CheckpointError:
            logger.warning("%s is damaged and will be written again", path)
            return False
        return True

    def write(self, folder: Path, device: torch.device | None = None) -> Path:
        """Make the file, unless it is there: written beside, synced, renamed.

        Args:
            device: that rounds, a layer at a time; a card does in seconds what takes a CPU
                minutes, to the same bits.

        Raises:
            ComponentError: it cannot be written; says why.
        """
        path = folder / self.file_name
        if self.is_in(folder):
            return path
        began = time.perf_counter()
        logger.info("writing %.1f GB of weights to %s, once", self.size / 1e9, path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _sweep_stale(folder)
            values = self._values(device or torch.device("cpu"))
            write_streamed(path, self.layout, values, {"edition": str(EDITION)})
        except OSError as error:
            raise ComponentError(
                f"{path}: weights cannot be kept there ({error.strerror or error}); "
                f"{self.size / 1e9:.1f} GB are needed (RECURVID_HOME names another folder)"
            ) from error
        logger.info("written in %.0f s", time.perf_counter() - began)
        return path

    def load(self, path: Path | None = None) -> PackedDiT:
        """The backbone on the CPU, on the memory maps of the source and of a written file.

        Without a file everything that it would hold is made in memory.

        Raises:
            CheckpointError: the file is not one of this conversion.
        """
        model = self._empty()
        if path is None:
            made = dict(self._values(torch.device("cpu")))
        else:
            file = open_file(path)
            self._check(file)
            made = {name: file.tensor(name) for name in self.layout}
        state = {
            name: made[name] if name in made else self.source.tensor(name)
            for name in model.state_dict()
        }
        model.load_state_dict(state, strict=True, assign=True)
        return model.eval().requires_grad_(False)

    def _empty(self, *, convert_too: bool = True) -> PackedDiT:
        """The model without memory behind its tensors, in this form."""
        model = skeleton(self.config, source_name(self.source)).to(self.dtype)
        if convert_too and self.form != AUTO:
            convert(model, FORMS[self.form], rounded_in(self.form, self.config))
        return model

    def _has(self, name: str, wanted: Tensor) -> bool:
        if name in self._replaced or name not in self.source.keys():  # noqa: SIM118
            return False
        return self.source.dtype(name) == wanted.dtype

    @cached_property
    def _replaced(self) -> frozenset[str]:
        """Names in the source behind which a form puts something else; a bias is as before."""
        return frozenset(
            f"{layer}.{part}" for layer in self._layers for part in ("weight", "scale")
        )

    def _values(self, device: torch.device) -> Iterator[tuple[str, Tensor]]:
        """What the file holds, in order; a layer's tensors stand side by side."""
        layer, parts = "", dict[str, Tensor]()
        for name in self.layout:
            owner, _, part = name.rpartition(".")
            if owner not in self._layers:
                yield name, self.source.tensor(name).to(self.dtype)
                continue
            if owner != layer:
                layer, parts = owner, self._made(owner, device)
            yield name, parts[part]

    def _made(self, name: str, device: torch.device) -> dict[str, Tensor]:
        """The tensors of one layer in its form, on the CPU."""
        like = self._layers[name]
        has_bias = f"{name}.bias" in self.source.keys()  # noqa: SIM118
        linear = nn.Linear(like.in_features, like.out_features, has_bias, device="meta")
        for part in ("weight", "bias") if has_bias else ("weight",):
            value = self.source.tensor(f"{name}.{part}").to(device, self.dtype)
            setattr(linear, part, nn.Parameter(value, requires_grad=False))
        made = FORMS[self.form].make(linear).state_dict()
        return {part: value.cpu() for part, value in made.items()}

    def _check(self, file: Checkpoint) -> None:
        """Raise unless a file holds exactly what this conversion makes."""
        names = file.keys()
        wrong = [
            name
            for name, wanted in self.layout.items()
            if name not in names
            or (file.shape(name), file.dtype(name)) != (tuple(wanted.shape), wanted.dtype)
        ]
        if wrong or len(names) != len(self.layout):
            raise CheckpointError(f"{source_name(file)}: not the weights that belong here")


def _wide_layers(model: PackedDiT, form: str) -> dict[str, nn.Linear]:
    """Layers that a form converts, by name."""
    if form == AUTO:
        return {}
    is_rounded = rounded_in(form, model.config)
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear
        and is_rounded(name)
        and module.in_features % FORMS[form].multiple == 0
    }


def _sweep_stale(folder: Path) -> None:
    """Remove what killed writers left; another one may be writing at this moment."""
    for path in folder.glob(".recurvid-*.partial*"):
        try:
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink()
        except OSError:
            logger.debug("%s could not be removed", path)
