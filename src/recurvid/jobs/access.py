"""Who may use the server and the page: keys, and which addresses need none."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from recurvid.errors import InputError

_SHORTEST = 8
_LONGEST = 512
_LARGEST_FILE = 1_000_000


def needs_key(host: str) -> bool:
    """Whether an address can be reached from elsewhere: anything but loopback."""
    name = host.strip().strip("[]").split("%")[0]
    if name.lower() in ("localhost", "ip6-localhost"):
        return False
    try:
        return not ipaddress.ip_address(name).is_loopback
    except ValueError:
        return True


@dataclass(frozen=True)
class Access:
    """The keys that are let in; with none, everybody is, as the owner "".

    Attributes:
        digests: SHA-256 of each key; keys themselves are not kept.
    """

    digests: tuple[bytes, ...] = field(default=(), repr=False)

    @staticmethod
    def of(key: str | None = None, file: Path | None = None) -> Access:
        """From RECURVID_API_KEY (``settings().api_key``) and a file with a key a line.

        Lines that are empty or begin with # are left out. Every key is an owner of its own.

        Raises:
            InputError: no such file, no key in it, or a key that is too short to be one.
        """
        keys = [] if key is None else [_checked(key, "RECURVID_API_KEY")]
        if file is not None:
            keys += _keys_in(file)
        return Access(tuple(_digest(key) for key in dict.fromkeys(keys)))

    @property
    def required(self) -> bool:
        """Whether a key is needed at all."""
        return bool(self.digests)

    def check(self, given: str | None) -> str | None:
        """The owner that a key stands for, None for a wrong or missing one.

        It takes as long for any key: digests are compared, all of them, in constant time.
        """
        if not self.digests:
            return ""
        digest = _digest(given or "")
        found: bytes | None = None
        for known in self.digests:
            if hmac.compare_digest(known, digest):
                found = known
        return None if found is None else _owner(found)

    def owners(self) -> tuple[str, ...]:
        """The owners of all keys; ("",) without any."""
        return tuple(_owner(digest) for digest in self.digests) or ("",)

    def refuse_open(self, host: str, *, without_key: bool = False) -> None:
        """Raise before listening where strangers could come in.

        Args:
            without_key: the user has said that this is wanted.

        Raises:
            InputError: with what to do.
        """
        if needs_key(host) and not self.required and not without_key:
            raise InputError(
                f"host {host!r} can be reached from other machines: set RECURVID_API_KEY or give a "
                "key file, or say explicitly that no key is wanted"
            )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _owner(digest: bytes) -> str:
    # Hashed once more: an owner's name may be seen in logs, and must not help to guess the key.
    return "key-" + hashlib.sha256(b"recurvid owner " + digest).hexdigest()[:16]


def _checked(key: str, name: str) -> str:
    key = key.strip()
    if not _SHORTEST <= len(key) <= _LONGEST or not key.isascii() or not key.isprintable():
        raise InputError(
            f"{name}: a key has {_SHORTEST} to {_LONGEST} printable ASCII characters; "
            "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return key


def _keys_in(file: Path) -> Iterable[str]:
    try:
        if file.stat().st_size > _LARGEST_FILE:
            raise InputError(f"key file {str(file)!r}: too large to be one")
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise InputError(f"key file {str(file)!r}: cannot be read ({reason})") from None
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise InputError(f"key file {str(file)!r}: holds no key; write one a line")
    return [_checked(key, f"key file {str(file)!r}") for key in keys]
