"""Fetching a known model from the hub. The only module that touches the network."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from recurvid.checkpoints.blobs import Progress, fetch_blobs, large_blobs
from recurvid.checkpoints.formats import open_checkpoint
from recurvid.checkpoints.known import Component, ModelSpec
from recurvid.checkpoints.locate import Found, find, hub_cache, search_roots, status
from recurvid.errors import CheckpointError, Line

#: Kept free beside what is fetched: file systems and other programs need air.
SPARE_BYTES = 500_000_000

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


@runtime_checkable
class SnapshotDownload(Protocol):
    """The part of ``huggingface_hub.snapshot_download`` that is used, the same since 0.30."""

    def __call__(self, repo_id: str, *, allow_patterns: list[str], cache_dir: str) -> str:
        """Fetch the matching files of a repository, resuming; returns the snapshot's folder."""
        ...


@dataclass(frozen=True)
class FetchPlan:
    """What has to be fetched.

    Attributes:
        spec: the model.
        parts: the parts that are missing or incomplete.
        cache: folder in the hub's cache layout that will hold them.
        size: bytes still to fetch, about.
    """

    spec: ModelSpec
    parts: tuple[Component, ...]
    cache: Path
    size: int


def plan_fetch(
    spec: ModelSpec, cache: Path | None = None, roots: Sequence[Path] | None = None
) -> FetchPlan:
    """What is missing of a model, and whether the disk holds it. Touches no network.

    Args:
        cache: where to fetch to; by default the hub's own cache, shared with other programs.
        roots: where parts are looked for first; by default ``cache`` and the usual roots.

    Raises:
        CheckpointError: not enough free disk space.
    """
    cache = cache or hub_cache()
    roots = (cache, *search_roots()) if roots is None else roots
    lost = [found for found in status(spec, roots) if found.path is None]
    size = sum(max(0, found.component.size - found.size) for found in lost)
    size = max(0, size - sum(_begun(cache, repo) for repo in {f.component.repo for f in lost}))
    plan = FetchPlan(spec, tuple(found.component for found in lost), cache, size)
    if plan.parts:
        _check_disk(plan)
    return plan


def fetch(
    plan: FetchPlan,
    download: SnapshotDownload | None = None,
    progress: Progress | None = None,
) -> tuple[Found, ...]:
    """Fetch what a plan lists, repository by repository, then check it.

    A fetch that was stopped goes on where it stopped. Only files of the patterns in the plan are
    asked for: no pickles, no code.

    Args:
        progress: told of every piece of a large file, from several threads.
        download: in place of ``huggingface_hub.snapshot_download``; for tests.

    Raises:
        CheckpointError: one line: no network, no such repository, no space, a damaged file.
    """
    large_first = download is None
    download = download or _hub_download()
    for repo in dict.fromkeys(part.repo for part in plan.parts):
        parts = [part for part in plan.parts if part.repo == repo]
        patterns = [pattern for part in parts for pattern in part.patterns]
        try:
            if large_first:
                fetch_blobs(large_blobs(repo, patterns), _blobs(plan.cache, repo), progress)
            download(repo, allow_patterns=patterns, cache_dir=str(plan.cache))
        except CheckpointError:
            raise
        except Exception as error:
            raise _told(repo, error) from error
    return tuple(_checked(part, plan.cache) for part in plan.parts)


def _hub_download() -> SnapshotDownload:
    from huggingface_hub import constants, snapshot_download

    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(
            "HF_HUB_OFFLINE is set: nothing can be fetched; unset it first", "fetch.offline"
        )
    return snapshot_download


def _checked(part: Component, cache: Path) -> Found:
    """The part as it lies in the cache now, its headers read."""
    found = find(part, (cache,))
    if found.path is None:
        raise CheckpointError(
            f"{part.repo}: {part.folder or 'the repository'} was fetched but is not complete "
            f"({found.state} in {cache}); run the same command again",
            "fetch.incomplete",
        )
    if part.weights:
        open_checkpoint(found.path)
    return found


def _blobs(cache: Path, repo: str) -> Path:
    return cache / ("models--" + repo.replace("/", "--")) / "blobs"


def _begun(cache: Path, repo: str) -> int:
    """Bytes of half-fetched files of a repository that a fetch goes on with."""
    files = _blobs(cache, repo).glob("*.incomplete")
    # NAME.RANDOM.incomplete are the leavings of hub 2.x, of no use to anyone.
    return sum(file.stat().st_size for file in files if file.name.count(".") == 1)


def _check_disk(plan: FetchPlan) -> None:
    existing = next(path for path in (plan.cache, *plan.cache.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise CheckpointError(f"{existing}: is a file; name a folder to fetch to", "fetch.folder")
    try:
        free = shutil.disk_usage(existing).free
    except OSError as error:
        raise CheckpointError(
            f"{existing}: cannot be used ({error.strerror})", "fetch.folder"
        ) from error
    if free < plan.size + SPARE_BYTES:
        raise CheckpointError(
            f"{plan.spec.name} needs {in_words(plan.size)} more at {plan.cache}, "
            f"where {in_words(free)} are free; make room, or name another folder with --to",
            "fetch.room",
            needed=in_words(plan.size),
            free=in_words(free),
        )


def in_words(size: int) -> str:
    """Bytes for people: "25.7 GB", "986 MB"."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            digits = 1 if size < 100 * factor and unit == "GB" else 0
            return f"{size / factor:.{digits}f} {unit}"
    return f"{size} bytes"


#: What went wrong, by the name of an exception class anywhere in its chain. Names, because hub
#: 0.x raises requests' classes and 1.x and later httpx's.
_REASONS = (
    (
        {"OfflineModeIsEnabled"},
        Line(
            "the hub's library is set offline (HF_HUB_OFFLINE); unset it first", "fetch.offline"
        ),
    ),
    (
        {"GatedRepoError"},
        Line(
            "its owners ask for an account and consent; see its page on the hub", "fetch.gated"
        ),
    ),
    (
        {"RepositoryNotFoundError"},
        Line(
            "no such repository on the hub, or it is not public any more", "fetch.no_repository"
        ),
    ),
    (
        {"ConnectionLostError", "LocalEntryNotFoundError", "ConnectionError", "ConnectError",
         "ConnectTimeout", "Timeout", "TimeoutException", "NetworkError", "TransportError",
         "gaierror", "TimeoutError"},
        Line(
            "no connection to the hub; check the network and run the same command again, "
            "what was fetched so far is kept",
            "fetch.no_network",
        ),
    ),
)  # fmt: skip


def _told(repo: str, error: BaseException) -> CheckpointError:
    """One line for whatever the hub's library raised."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for problem in chain:
        if isinstance(problem, OSError) and problem.errno in _FULL:
            return CheckpointError(
                f"{repo}: the disk is full; make room and run the same command again", "fetch.full"
            )
    names = {kind.__name__ for problem in chain for kind in type(problem).__mro__}
    for kinds, reason in _REASONS:
        if names & kinds:
            return CheckpointError(f"{repo}: {reason}", reason.key)
    first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return CheckpointError(
        f"{repo}: could not be fetched ({first}); run the same command again to go on",
        "fetch.other",
        reason=first,
    )
