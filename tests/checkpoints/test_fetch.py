"""Fetching, with huggingface_hub's own code against a hub on localhost.

The real hub was not at hand: what is proven is our side and the library's of the version that is
installed, not today's answers of huggingface.co.
"""

from __future__ import annotations

import errno
import hashlib
import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.checkpoints.hub_server import Hub, serve
from tests.checkpoints.layouts import FORWARD, HUNYUAN, INVERTED, to_hub_cache
from typer.testing import CliRunner

from recurvid.checkpoints import fetch as module
from recurvid.checkpoints.fetch import fetch, in_words, plan_fetch
from recurvid.checkpoints.known import KNOWN
from recurvid.checkpoints.locate import locate
from recurvid.cli import models as command
from recurvid.errors import CheckpointError, InputError

F1 = KNOWN["framepack-f1"]
SHARD = "diffusion_pytorch_model-00002-of-00003.safetensors"


@pytest.fixture
def server(repositories: Path) -> Iterator[Hub]:
    with serve(repositories) as hub:
        yield hub


@pytest.fixture
def plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=10**15)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)


_GET = """
import shutil, sys
from recurvid.checkpoints import fetch
from recurvid.cli.models import app
from recurvid.errors import RecurVidError
from recurvid.checkpoints import blobs
blobs.LARGE = 1_000
blobs.large_blobs.__defaults__ = (1_000,)
usage = shutil.disk_usage("/")._replace(free=10**15)
fetch.shutil.disk_usage = lambda _: usage
try:
    app(sys.argv[1:])
except RecurVidError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def run(server: Hub, home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """``recurvid models …`` in a process of its own: the hub's library reads its address once."""
    wiped = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    env = {**wiped, "HF_ENDPOINT": server.url, "HF_HOME": str(home), **more}
    return subprocess.run(
        [sys.executable, "-c", _GET, *arguments],
        env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120,
    )  # fmt: skip


def test_get_fetches_everything_and_nothing_more(server: Hub, tmp_path: Path) -> None:
    done = run(server, tmp_path, "get", "framepack", "--yes")
    assert done.returncode == 0, done.stderr
    files = locate("framepack", roots=(tmp_path / "hub",))
    assert files["transformer"].parts[-3] == "models--lllyasviel--FramePackI2V_HY"
    asked = {name for _, name, _ in server.requested}
    assert SHARD in asked
    assert {"tokenizer/tokenizer.json", "tokenizer_2/merges.txt", "vae/config.json"} <= asked
    unwanted = ("image_embedder", "transformer/", "model_index.json")
    assert not [name for name in asked if name.startswith(unwanted)]
    # The licences were shown, and progress.
    for licence in KNOWN["framepack"].licences:
        assert licence.name in done.stderr
    assert "European" in done.stderr
    assert SHARD[-36:] in done.stderr
    # The sister needs only its transformer now.
    server.requested.clear()
    done = run(server, tmp_path, "get", "framepack-f1", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert {name.split("-")[0] for _, name, _ in server.requested} == {
        "config.json",
        "diffusion_pytorch_model",
        "diffusion_pytorch_model.safetensors.index.json",
    }
    assert json.loads(done.stdout)["state"] == "present"
    # And a third time nothing at all, even with the hub gone.
    server.requested.clear()
    server.refused = 503
    done = run(server, tmp_path, "get", "framepack-f1", "--yes")
    assert done.returncode == 0, done.stderr
    assert not server.requested


def test_get_goes_on_where_it_stopped(server: Hub, repositories: Path, tmp_path: Path) -> None:
    """A file of which 5,000 bytes are there is asked for from byte 5,000 on."""
    data = (repositories / FORWARD / SHARD).read_bytes()
    blobs = tmp_path / "hub" / ("models--" + FORWARD.replace("/", "--")) / "blobs"
    blobs.mkdir(parents=True)
    name = f"{hashlib.sha256(data).hexdigest()}.incomplete"
    (blobs / name).write_bytes(data[:5000])
    done = run(server, tmp_path, "get", "framepack-f1", "--yes")
    assert done.returncode == 0, done.stderr
    spans = [span for method, file, span in server.requested if (method, file) == ("GET", SHARD)]
    assert spans == ["bytes=5000-"]
    files = locate("framepack-f1", roots=(tmp_path / "hub",))
    assert (files["transformer"] / SHARD).read_bytes() == data


def test_connection_that_breaks_is_taken_up_again(server: Hub, tmp_path: Path) -> None:
    server.cut[SHARD] = 4000
    done = run(server, tmp_path, "get", "framepack-f1", "--yes")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("status", "reason"), [(404, "no such repository|could not be"), (401, "could not be fetched")]
)
def test_refusal_is_one_line(status: int, reason: str, server: Hub, tmp_path: Path) -> None:
    server.refused = status
    done = run(server, tmp_path, "get", "framepack", "--yes")
    assert done.returncode == CheckpointError.exit_code
    last = done.stderr.strip().splitlines()[-1]
    assert INVERTED in last
    assert any(part in last for part in reason.split("|"))
    assert "Traceback" not in done.stderr


def test_no_connection_is_one_line(tmp_path: Path) -> None:
    nowhere = Hub(tmp_path, url="http://127.0.0.1:9")
    done = run(nowhere, tmp_path, "get", "framepack", "--yes")
    assert done.returncode == CheckpointError.exit_code
    assert "no connection to the hub" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_offline_is_one_line(server: Hub, tmp_path: Path) -> None:
    done = run(server, tmp_path, "get", "framepack", "--yes", HF_HUB_OFFLINE="1")
    assert done.returncode == CheckpointError.exit_code
    assert "HF_HUB_OFFLINE is set" in done.stderr.strip().splitlines()[-1]
    assert not server.requested


def test_without_a_terminal_yes_is_needed(server: Hub, tmp_path: Path) -> None:
    done = run(server, tmp_path, "get", "framepack")
    assert done.returncode == InputError.exit_code
    assert "pass --yes" in done.stderr
    assert not server.requested


def test_to_another_folder(server: Hub, tmp_path: Path) -> None:
    done = run(server, tmp_path / "home", "get", "framepack", "--yes", "--to", str(tmp_path / "x"))
    assert done.returncode == 0, done.stderr
    assert locate("framepack", roots=(tmp_path / "x",)).spec.name == "framepack"
    assert not list((tmp_path / "home").rglob("*.safetensors"))


def test_listing_touches_no_network(server: Hub, hub: Path, tmp_path: Path) -> None:
    done = run(server, tmp_path, "--json", RECURVID_MODELS=str(hub))
    listing = {model["name"]: model for model in map(json.loads, done.stdout.splitlines())}
    assert listing["framepack"]["state"] == "present"
    assert listing["framepack-f1"]["schedule"] == "f1k1_f16k4f2k2f1k1_g9"
    parts = {part["role"]: part for part in listing["framepack"]["parts"]}
    assert parts["transformer"]["path"].startswith(str(hub))
    assert parts["vae"]["licence"].startswith("Tencent Hunyuan")
    empty = run(server, tmp_path, "--json")
    listing = {model["name"]: model for model in map(json.loads, empty.stdout.splitlines())}
    assert listing["framepack"]["state"] == "missing"
    assert listing["framepack"]["size"] > 42e9
    table = run(server, tmp_path, COLUMNS="200").stdout
    for text in ("framepack-f1", "missing", "25.7 GB", "15.0 GB", "Llama 3 Community License"):
        assert text in table
    assert not server.requested


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, plenty: None) -> list[Any]:
    """The command inside this process: a terminal, and a list in place of the download."""
    fetched: list[Any] = []
    monkeypatch.setattr(command, "fetch", lambda plan, progress=None: fetched.append(plan))
    monkeypatch.setattr(command, "_at_terminal", lambda: True)
    monkeypatch.setenv("RECURVID_MODELS", str(tmp_path))
    return fetched


@pytest.mark.parametrize(("answer", "fetches"), [("y\n", 1), ("n\n", 0), ("\n", 0), ("", 0)])
def test_the_user_is_asked(answer: str, fetches: int, asked: list[Any], tmp_path: Path) -> None:
    arguments = ["get", "framepack", "--to", str(tmp_path)]
    result = CliRunner().invoke(command.app, arguments, input=answer)
    assert len(asked) == fetches
    assert result.exit_code == (0 if fetches else 1)
    assert "Accept these licences" in result.output


def test_unknown_name(asked: list[Any]) -> None:
    result = CliRunner().invoke(command.app, ["get", "sora"])
    assert isinstance(result.exception, InputError)
    assert "framepack-f1" in str(result.exception)
    assert not asked


def test_bundled_needs_no_fetching(asked: list[Any]) -> None:
    result = CliRunner().invoke(command.app, ["get", "bundled"])
    assert result.exit_code == 0
    assert "part of this package" in result.output
    assert not asked


def test_disk_space_is_checked_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free = 30 * 10**9
    usage = shutil.disk_usage("/")._replace(free=free)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CheckpointError) as caught:
        plan_fetch(F1, tmp_path / "not" / "yet", roots=())
    message = str(caught.value)
    assert "42.9 GB" in message
    assert "30.0 GB are free" in message
    assert "\n" not in message


def test_what_is_there_is_not_counted(plenty: None, repositories: Path, tmp_path: Path) -> None:
    whole = plan_fetch(F1, tmp_path, roots=(tmp_path,))
    assert len(whole.parts) == 8
    assert whole.size == F1.size
    to_hub_cache(tmp_path, HUNYUAN, repositories / HUNYUAN)
    rest = plan_fetch(F1, tmp_path, roots=(tmp_path,))
    roles = [part.role for part in rest.parts]
    assert roles == ["transformer", "image_encoder", "feature_extractor"]
    blobs = tmp_path / ("models--" + FORWARD.replace("/", "--")) / "blobs"
    blobs.mkdir(parents=True)
    with (blobs / "abc.incomplete").open("wb") as file:
        file.truncate(10**9)
    assert plan_fetch(F1, tmp_path, roots=(tmp_path,)).size == rest.size - 10**9


def test_fetched_files_are_checked(plenty: None, repositories: Path, tmp_path: Path) -> None:
    """A repository that serves a damaged shard, or not all of them, is found out."""

    def damaged(repo_id: str, *, allow_patterns: list[str], cache_dir: str) -> str:
        snapshot = to_hub_cache(Path(cache_dir), repo_id, repositories / repo_id)
        if repo_id == FORWARD:
            shard = snapshot / SHARD
            data = shard.read_bytes()
            shard.unlink()
            shard.write_bytes(data[:-10])
        return str(snapshot)

    with pytest.raises(CheckpointError, match=f"{SHARD}: truncated"):
        fetch(plan_fetch(F1, tmp_path, roots=(tmp_path,)), damaged)

    def half(repo_id: str, *, allow_patterns: list[str], cache_dir: str) -> str:
        snapshot = to_hub_cache(Path(cache_dir), repo_id, repositories / repo_id)
        (snapshot / "vae" / "config.json").unlink(missing_ok=True)
        return str(snapshot)

    with pytest.raises(CheckpointError, match="vae was fetched but is not complete"):
        fetch(plan_fetch(F1, tmp_path / "2", roots=(tmp_path / "2",)), half)


def test_full_disk_is_one_line(plenty: None, tmp_path: Path) -> None:
    def full(repo_id: str, *, allow_patterns: list[str], cache_dir: str) -> str:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("download failed\nmany lines") from error

    with pytest.raises(CheckpointError, match="the disk is full") as caught:
        fetch(plan_fetch(F1, tmp_path, roots=()), full)
    assert "\n" not in str(caught.value)


def test_ctrl_c_passes_through(plenty: None, tmp_path: Path) -> None:
    def stopped(repo_id: str, *, allow_patterns: list[str], cache_dir: str) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(plan_fetch(F1, tmp_path, roots=()), stopped)


def test_the_library_takes_what_is_passed() -> None:
    from huggingface_hub import snapshot_download

    inspect.signature(snapshot_download).bind("a/b", allow_patterns=["*"], cache_dir="x")


@pytest.mark.parametrize("spec", KNOWN.values(), ids=lambda spec: spec.name)
def test_no_pattern_lets_code_or_pickles_in(spec: Any) -> None:
    from fnmatch import fnmatch

    for component in spec.components:
        for name in ("pytorch_model.bin", "model.pt", "modeling.py", "w.pth", "w.ckpt", "x.zip"):
            for path in (name, f"{component.folder}/{name}"):
                assert not any(fnmatch(path, pattern) for pattern in component.patterns)


@pytest.mark.parametrize(
    ("size", "words"),
    [(25_748_700_000, "25.7 GB"), (986_000_000, "986 MB"), (1_000, "1 kB"), (12, "12 bytes"),
     (158_000_000_000, "158 GB")],
)  # fmt: skip
def test_sizes_in_words(size: int, words: str) -> None:
    assert in_words(size) == words
