"""Large files of the hub, downloaded so that a stopped download goes on where it stopped.

huggingface_hub resumed by itself until 1.x; since 2.x it throws a half-fetched file away, which may
be 10 GB here. So the large files are put into the cache's ``blobs`` first, each under the name
that the library gives it; ``snapshot_download`` then finds them and only links them.
"""

from __future__ import annotations

import hashlib
import re
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from recurvid.errors import CheckpointError

#: (file, bytes there, bytes in all), called from several threads.
Progress = Callable[[str, int, int], None]

LARGE = 1_000_000
_CHUNK = 1 << 20
_PARALLEL = 3
_TIMEOUT = 30.0
#: Attempts in a row that bring no byte, before a connection counts as lost.
_TRIES = 4


class ConnectionLostError(OSError):
    """A download broke off and could not be taken up again. What is there is kept."""


@dataclass(frozen=True)
class Blob:
    """One file of a repository.

    Attributes:
        name: inside the repository.
        etag: the library's name for the content.
    """

    name: str
    url: str
    etag: str
    size: int


def large_blobs(repo: str, patterns: list[str], minimum: int = LARGE) -> list[Blob]:
    """The files of a repository that match, are large, and are known by a plain etag.

    Raises:
        Exception: whatever the hub's library raises without network or repository.
    """
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils import filter_repo_objects

    names = [file.rfilename for file in HfApi().model_info(repo).siblings or []]
    found: list[Blob] = []
    for name in filter_repo_objects(names, allow_patterns=patterns):
        if not name.endswith(".safetensors"):
            continue
        url = hf_hub_url(repo, name)
        about = get_hf_file_metadata(url)
        if about.etag and about.size and re.fullmatch(r"\w+", about.etag) and about.size >= minimum:
            found.append(Blob(name, url, about.etag, about.size))
    return found


def fetch_blobs(blobs: Iterable[Blob], folder: Path, progress: Progress | None = None) -> None:
    """Download blobs into a ``blobs`` folder, a few at a time; those that are there are skipped.

    Raises:
        ConnectionLostError: a download broke off for good.
        CheckpointError: a file arrived damaged (its SHA-256 is another); it was removed.
        OSError: from writing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stop = threading.Event()
    with ThreadPoolExecutor(_PARALLEL) as pool:
        running = [pool.submit(_fetch, blob, folder, progress, stop) for blob in blobs]
        try:
            for download in running:
                download.result()
        except BaseException:  # Ctrl-C too: the threads would go on for hours
            stop.set()
            for download in running:
                download.cancel()
            raise


def _fetch(blob: Blob, folder: Path, progress: Progress | None, stop: threading.Event) -> None:
    from huggingface_hub.utils import WeakFileLock

    # The library's own lock: another program may be fetching the same file.
    lock = folder.parent.parent / ".locks" / folder.parent.name / f"{blob.etag}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        target, partial = folder / blob.etag, folder / f"{blob.etag}.incomplete"
        if target.exists() or not _complete(blob, partial, progress, stop):
            return
        if len(blob.etag) == 64:  # the SHA-256 of a large file; small ones have git's
            with partial.open("rb") as file:
                same = hashlib.file_digest(file, "sha256").hexdigest() == blob.etag
            if not same:
                partial.unlink()
                raise CheckpointError(f"{blob.name} arrived damaged; run the same command again")
        partial.replace(target)


def _complete(blob: Blob, partial: Path, progress: Progress | None, stop: threading.Event) -> bool:
    """Connect again and again until all bytes are there; False when told to stop."""
    idle = 0
    if _size(partial) > blob.size:
        partial.unlink()
    while not stop.is_set():
        before = _size(partial)
        if before == blob.size:
            return True
        problem = _append(blob, partial, progress, stop)
        idle = 0 if _size(partial) > before else idle + 1
        if idle == _TRIES:
            raise ConnectionLostError(f"{blob.name}: {problem or 'the server sends nothing'}")
        if idle:
            stop.wait(2.0**idle / 2)
    return False


def _append(
    blob: Blob, partial: Path, progress: Progress | None, stop: threading.Event
) -> Exception | None:
    """One connection's worth of bytes at the end of ``partial``; what ended it, if not the end."""
    start = _size(partial)
    request = urllib.request.Request(blob.url, headers={"Range": f"bytes={start}-"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT, context=_tls()) as answer:
            if answer.status != 206:  # a server that ignores ranges starts over
                start = 0
            with partial.open("r+b" if start else "wb") as file:
                file.seek(start)
                while not stop.is_set() and (chunk := answer.read(_CHUNK)):
                    file.write(chunk)
                    start += len(chunk)
                    if progress is not None:
                        progress(blob.name, start, blob.size)
    except urllib.error.HTTPError as error:
        if error.code < 500 and error.code not in (408, 429):
            raise
        return error
    except (urllib.error.URLError, TimeoutError, ConnectionError, ssl.SSLError) as error:
        return error
    except HTTPException as error:  # the body ended early
        return error
    return None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _tls() -> ssl.SSLContext:
    """The system's certificates and certifi's: python.org's builds for macOS have none."""
    import certifi

    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context
