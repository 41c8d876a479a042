"""locate: a name, a path or a repository id -> the files of a model. The network is never touched.

A *root* is a folder in which models are looked for, in the hub's cache layout
(``models--org--name/snapshots/<commit>/…``, also below ``hub/``), or as plain folders ``org/name``
or ``name``. Roots are RECURVID_MODELS, then the hub's cache (HF_HOME and HF_HUB_CACHE, as
huggingface_hub reads them), and, when a path is given, the folders above it that are roots: an
installation of the original keeps all parts in its ``hf_download/hub``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recurvid.checkpoints.checkpoint import some
from recurvid.checkpoints.formats import PICKLES
from recurvid.checkpoints.known import KNOWN, Component, ModelSpec
from recurvid.checkpoints.safetensors_files import INDEX_SUFFIX, read_index, shard_group
from recurvid.errors import CheckpointError, InputError
from recurvid.settings import settings

BUNDLED_FOLDER = Path(__file__).resolve().parents[1] / "bundled"

_PLAIN = re.compile(r"[A-Za-z0-9._-]+")
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class ModelFiles:
    """A model whose parts are all on this machine.

    Attributes:
        spec: what it is and how it is run.
        paths: role -> its folder, or a single weights file.
    """

    spec: ModelSpec
    paths: Mapping[str, Path]

    def __getitem__(self, role: str) -> Path:
        """Folder or file of a role. KeyError where the model has no such part."""
        return self.paths[role]


@dataclass(frozen=True)
class Found:
    """How one part stands on this machine.

    Attributes:
        path: folder or file when it is complete, or else None.
        partial: folder that holds some of it, where nothing complete was found.
        size: bytes on disk of what was found.
    """

    component: Component
    path: Path | None
    partial: Path | None
    size: int

    @property
    def state(self) -> str:
        """One of "present", "incomplete" and "missing"."""
        return "present" if self.path else "incomplete" if self.partial else "missing"


def hub_cache() -> Path:
    """The hub's cache folder on this machine; it may not exist."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def search_roots() -> tuple[Path, ...]:
    """Where models are looked for by name, in order."""
    models = settings().models
    return (*((models,) if models else ()), hub_cache())


def locate(name_or_path: str | Path, *, roots: Sequence[Path] | None = None) -> ModelFiles:
    """Find all files of a model.

    Args:
        name_or_path: a known name ("framepack-f1"); a repository id of a known transformer; a
            path to transformer weights, to a folder with them or to a root; or ``NAME=PATH``,
            which says of a path what it is.
        roots: where to look; by default :func:`search_roots`.

    Raises:
        InputError: a name that is not known, or a path that does not tell which model it is.
        CheckpointError: parts that are not on this machine; the line says how to get them.
    """
    text = str(name_or_path)
    roots = search_roots() if roots is None else roots
    spec = KNOWN.get(text) or _by_repo(text)
    if spec is not None:
        return _complete(spec, {}, roots)
    name, separator, rest = text.partition("=")
    if separator and name in KNOWN:
        if not rest:
            raise InputError(f"model {text!r}: no path stands behind the sign")
        return _locate_path(Path(os.path.expanduser(rest)), KNOWN[name], roots)
    path = Path(os.path.expanduser(text))
    if text and path.exists():
        return _locate_path(path, None, roots)
    if _REPO_ID.fullmatch(text) and (folder := _first_snapshot(text, roots)):
        return _locate_path(folder, None, roots)
    raise InputError(
        f"model {text!r} is neither known ({', '.join(KNOWN)}) nor a path on this machine"
    )


def status(spec: ModelSpec, roots: Sequence[Path] | None = None) -> tuple[Found, ...]:
    """How each part of a model stands on this machine."""
    roots = search_roots() if roots is None else roots
    return tuple(find(component, roots) for component in spec.components)


def find(component: Component, roots: Sequence[Path]) -> Found:
    """Look for one part: the first complete folder, then single files, then what is incomplete."""
    partial: Path | None = None
    for folder in _folders(component, roots):
        if is_complete(component, folder):
            path = folder / component.single_files[0] if not component.repo else folder
            return Found(component, path, None, _bytes(component, folder))
        begun = component.requires if not component.repo else ("*",)
        if partial is None and any(True for name in begun for _ in folder.glob(name)):
            partial = folder
    for root in roots:
        for name in component.single_files if component.repo else ():
            for file in (root / name, *sorted(root.glob(f"*/{name}"))):
                if file.is_file():
                    return Found(component, file, None, file.stat().st_size)
    return Found(component, None, partial, _bytes(component, partial) if partial else 0)


def is_complete(component: Component, folder: Path) -> bool:
    """Whether a folder has every file of a part. Looks at names, not into tensors."""
    if not all((folder / name).is_file() for name in component.requires):
        return False
    if not component.weights or not component.repo:
        return True
    indexes = sorted(folder.glob(f"*{INDEX_SUFFIX}"))
    try:
        if indexes:
            shards = set(read_index(indexes[0]).values())
            return all((folder / shard).is_file() for shard in shards)
        return bool(shard_group(folder)) or any(
            file.is_file() and "-of-" not in file.name for file in folder.glob("*.safetensors")
        )
    except CheckpointError:
        return False


def kind_of(path: Path) -> str | None:
    """Name of the released transformer that a path names, or None: the files cannot tell."""
    for part in reversed(path.absolute().parts):
        text = part.lower().replace("-", "_")
        if "framepack" not in text:
            continue
        if re.search(r"(^|_)f1(_|\.|$)", text):
            return "framepack-f1"
        if "i2v_hy" in text or "i2v" in text or "inverted" in text:
            return "framepack"
    return None


def _by_repo(text: str) -> ModelSpec | None:
    for spec in KNOWN.values():
        if not spec.bundled and spec.component("transformer").repo == text:
            return spec
    return None


def _locate_path(path: Path, spec: ModelSpec | None, roots: Sequence[Path]) -> ModelFiles:
    if not path.exists():
        raise InputError(f"model path {path} does not exist")
    if path.suffix.lower() in PICKLES:
        raise CheckpointError(
            f"{path}: a pickle can run any code when it is read and is never opened; "
            "use the .safetensors edition of these weights"
        )
    own = KNOWN["bundled"]
    folder = path if path.is_dir() else path.parent
    if spec in (None, own) and is_complete(own.components[0], folder):
        return _complete(own, {}, (folder,))
    roots = (*_roots_above(path), *roots)
    transformer = _transformer_at(path)
    if transformer is None:
        return _only_model_in(path, spec, roots)
    spec = spec or KNOWN.get(kind_of(path) or "")
    if spec is None or spec.bundled:
        names = " or ".join(f"{name}={path}" for name in KNOWN if name != "bundled")
        raise InputError(f"{path}: a file cannot tell which model it is; say --model {names}")
    return _complete(spec, {"transformer": transformer}, roots)


def _transformer_at(path: Path) -> Path | None:
    """The weights file, or the folder with weights, that a path stands for; None for a root."""
    if path.is_file() or any(path.glob("*.safetensors")) or any(path.glob(f"*{INDEX_SUFFIX}")):
        return path
    for snapshot in _snapshots(path):
        return snapshot
    inner = path / "transformer"
    return inner if inner.is_dir() and any(inner.glob("*.safetensors")) else None


def _only_model_in(path: Path, spec: ModelSpec | None, roots: Sequence[Path]) -> ModelFiles:
    inside = [
        known
        for known in ([spec] if spec else KNOWN.values())
        if not known.bundled and find(known.component("transformer"), (path,)).path
    ]
    if len(inside) == 1:
        return _complete(inside[0], {}, (path, *roots))
    if inside:
        names = " or ".join(f"--model {known.name}={path}" for known in inside)
        raise InputError(f"{path}: holds several models; say {names}")
    raise CheckpointError(f"{path}: no transformer weights in this folder")


def _complete(spec: ModelSpec, given: Mapping[str, Path], roots: Sequence[Path]) -> ModelFiles:
    """All parts of a model, those in ``given`` taken as they are."""
    paths = dict(given)
    lost: list[Found] = []
    for component in spec.components:
        if component.role in paths:
            continue
        found = find(component, roots)
        if found.path is None:
            lost.append(found)
        else:
            paths[component.role] = found.path
    if not lost:
        return ModelFiles(spec, paths)
    parts = some([f"{found.component.role} ({found.state})" for found in lost], 8)
    advice = (
        "reinstall the package"
        if spec.bundled
        else f"fetch it with: recurvid models get {spec.name}"
    )
    raise CheckpointError(
        f"model {spec.name} is not complete on this machine: {parts}; {advice}",
        "model.incomplete",
        model=spec.name,
    )


def _folders(component: Component, roots: Sequence[Path]) -> Iterator[Path]:
    """Existing folders that may hold a part, best first."""
    if not component.repo:
        for root in (*roots, BUNDLED_FOLDER):
            if all((root / name).is_file() for name in component.requires):
                yield root
        if BUNDLED_FOLDER.is_dir():
            yield BUNDLED_FOLDER
        return
    for root in roots:
        for repository in _repositories(component.repo, root):
            folder = repository / component.folder
            if folder.is_dir():
                yield folder
        # A root may itself be a copy of the repository; without a folder name it could be any.
        if component.folder and (root / component.folder).is_dir():
            yield root / component.folder


def _repositories(repo: str, root: Path) -> Iterator[Path]:
    cached = "models--" + repo.replace("/", "--")
    for parent in (root, root / "hub"):
        yield from _snapshots(parent / cached)
    yield from (root / repo, root / repo.split("/")[1])


def _snapshots(cached: Path) -> Iterator[Path]:
    """Snapshots of a ``models--org--name`` folder: the one of ``main``, then the newest."""
    snapshots = cached / "snapshots"
    if not snapshots.is_dir():
        return
    reference = cached / "refs" / "main"
    commit = reference.read_text("utf-8").strip() if reference.is_file() else ""
    main = snapshots / commit if _PLAIN.fullmatch(commit) and commit.strip(".") else None
    if main is not None and main.is_dir():
        yield main
    others = [path for path in snapshots.iterdir() if path.is_dir() and path != main]
    yield from sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)


def _first_snapshot(repo: str, roots: Sequence[Path]) -> Path | None:
    for root in roots:
        for folder in _repositories(repo, root):
            if folder.is_dir():
                return folder
    return None


def _roots_above(path: Path) -> tuple[Path, ...]:
    """The folders above a path in which the other parts may lie beside it."""
    parents = [path, *path.absolute().parents]
    for parent in parents:
        if parent.name.startswith("models--"):
            return (parent.parent,)
    # A single file among others, or NAME in ROOT/org/NAME.
    return tuple(parents[:3] if path.is_dir() else parents[1:3])


def _bytes(component: Component, folder: Path) -> int:
    if not component.repo:
        names = [folder / name for name in component.requires]
    else:
        names = [
            file for file in folder.iterdir() if file.suffix in (".safetensors", ".json", ".txt")
        ]
    return sum(file.stat().st_size for file in names if file.is_file())
