"""Keys, limits and reasons: what strangers may do and read."""

from __future__ import annotations

import hmac
import json
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest

from recurvid.errors import CheckpointError, InputError, OutputError, SessionError
from recurvid.jobs import access
from recurvid.jobs.access import Access, needs_key
from recurvid.jobs.failures import disk_is_full, failure_of, public
from recurvid.jobs.limits import Limits
from recurvid.settings import settings

KEY, OTHER = "a-long-enough-key", "another-long-key"


def test_without_keys_everybody_is_nobody():
    nobody = Access.of()
    assert not nobody.required
    assert nobody.check(None) == nobody.check("whatever") == ""


def test_a_key_is_an_owner(tmp_path: Path):
    file = tmp_path / "keys"
    file.write_text(f"# two of them\n\n{KEY}\n  {OTHER}  \n{KEY}\n")
    keys = Access.of(file=file)
    owner, other = keys.check(KEY), keys.check(OTHER)
    assert owner
    assert other
    assert owner != other
    assert keys.owners() == (owner, other)
    assert Access.of(KEY).check(KEY) == owner  # wherever it was written
    assert KEY not in owner + repr(keys)
    for wrong in (None, "", KEY[:-1], KEY + " ", KEY.upper(), "\ud800", "é" * 9, "x" * 10**6):
        assert keys.check(wrong) is None


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    compared: list[tuple[int, int]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return hmac.compare_digest(a, b)

    (tmp_path / "keys").write_text(f"{KEY}\n{OTHER}\n")
    keys = Access.of(file=tmp_path / "keys")
    counted = SimpleNamespace(compare_digest=compare)
    monkeypatch.setattr(access, "hmac", counted)
    for given in (KEY, OTHER, "x", None):
        compared.clear()
        keys.check(given)
        assert compared == [(32, 32), (32, 32)]  # every key, always, as digests


@pytest.mark.parametrize("key", ["", "short", "with\nline", "ключ-ключ-ключ", "x" * 600])
def test_keys_that_are_none(key: str):
    with pytest.raises(InputError, match="RECURVID_API_KEY"):
        Access.of(key)


@pytest.mark.parametrize("text", ["", "# nothing\n\n", "short\n", "\0" * 20])
def test_key_files_without_keys(tmp_path: Path, text: str):
    (tmp_path / "keys").write_text(text)
    with pytest.raises(InputError, match="key file"):
        Access.of(file=tmp_path / "keys")


def test_a_key_file_that_is_not_there(tmp_path: Path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            Access.of(file=path)


def test_the_key_of_the_environment(monkeypatch: pytest.MonkeyPatch):
    assert settings().api_key is None
    settings.cache_clear()
    monkeypatch.setenv("RECURVID_API_KEY", KEY)
    assert settings().api_key == KEY
    assert KEY not in repr(settings())


@pytest.mark.parametrize(
    ("host", "needed"),
    [
        ("127.0.0.1", False),
        ("127.8.8.8", False),
        ("localhost", False),
        ("LOCALHOST", False),
        ("::1", False),
        ("[::1]", False),
        ("0.0.0.0", True),
        ("::", True),
        ("", True),
        ("192.168.0.1", True),
        ("example.org", True),
        ("localhost.example.org", True),
        ("127.0.0.1.example.org", True),
        ("2130706433", True),
        ("::ffff:8.8.8.8", True),
    ],
)
def test_addresses_that_need_a_key(host: str, needed: bool):
    assert needs_key(host) is needed
    if needed:
        with pytest.raises(InputError, match="RECURVID_API_KEY"):
            Access.of().refuse_open(host)
    Access.of().refuse_open(host, without_key=True)
    Access.of(KEY).refuse_open(host)


def test_limits_as_text():
    limits = Limits(seconds=3.5, crashes=1)
    assert Limits.from_json(json.loads(limits.to_text())) == limits
    for wrong in (
        {"unknown": 1},
        {"seconds": -1},
        {"frames": 1.5},
        {"steps": True},
        {"steps": "1"},
    ):
        with pytest.raises(InputError, match="limit"):
            Limits.from_json(wrong)


def test_the_reserve_suits_the_disk():
    assert Limits().reserve(10**12) == 10**9
    assert Limits().reserve(50 * 10**6) == 5 * 10**6


HOME = Path("/srv/video home/recurvid")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"cannot write {HOME}/jobs/video_{'0' * 32}/video.mp4: no", "cannot write video.mp4: no"),
        (
            f"the session {HOME}/jobs/video_{'a' * 32}/session was",
            "the session the job's folder was",
        ),
        ("model /opt/models/x.safetensors is short", "model x.safetensors is short"),
        ("two /a/b, /c/d; '/e/f'", "two b, d; 'f'"),
        ("C:\\Users\\someone\\x.png is", "x.png is"),
        ("~/secret/keys is", "keys is"),
        ("size: 1/2 of and/or 3", "size: 1/2 of and/or 3"),
        ("two\nlines   of it", "two lines of it"),
        ("moved; go on with: recurvid resume /x/y --out FILE", "moved"),
        ("changed (--force goes on all the same)", "changed; duplicate the job to begin anew"),
    ],
)
def test_reasons_tell_no_paths(text: str, said: str):
    assert public(text, HOME) == said


@pytest.mark.parametrize(
    ("error", "code", "known"),
    [
        (OutputError("x"), "output_error", True),
        (InputError("x"), "invalid_request", True),
        (CheckpointError("x"), "model_unavailable", True),
        (SessionError("x"), "session_error", True),
        (MemoryError(), "out_of_memory", False),
        (ZeroDivisionError("/srv/secret"), "internal_error", False),
    ],
)
def test_reasons_have_codes(error: Exception, code: str, known: bool):
    failure = failure_of(error, HOME)
    assert (failure.code, failure.known) == (code, known)
    assert "secret" not in failure.text


def _wrapped(suppress: bool) -> Exception:
    try:
        try:
            with open("/dev/full", "wb", buffering=0) as full:
                full.write(b"x")
        except OSError as error:
            if suppress:
                raise SessionError("cannot") from None
            raise OutputError("cannot") from error
    except (SessionError, OutputError) as error:
        return error
    raise AssertionError


def test_a_full_disk_is_seen_through_any_wrapping():
    assert disk_is_full(_wrapped(True))
    assert disk_is_full(_wrapped(False))
    assert disk_is_full(sqlite3.OperationalError("database or disk is full"))
    assert not disk_is_full(sqlite3.OperationalError("database is locked"))
    assert not disk_is_full(OSError(2, "no such file"))
    assert not disk_is_full(SessionError("the disk is full"))
