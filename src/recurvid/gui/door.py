"""Where the page listens, and who comes in; checked before anything heavy is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from recurvid.errors import InputError
from recurvid.jobs.access import Access


@dataclass(frozen=True)
class Door:
    """Where the page listens, and who comes in.

    Attributes:
        host: address of this machine.
        port: None for the first free one from 7860.
        share: a public address through Gradio's tunnel.
    """

    access: Access
    host: str = "127.0.0.1"
    port: int | None = None
    share: bool = False

    def check(self, *, without_key: bool = False) -> None:
        """Raise before strangers could come in.

        Raises:
            InputError: with what to do.
        """
        self.access.refuse_open(self.host, without_key=without_key)
        if self.share and not self.access.required:
            raise InputError(
                "--share makes the page public: set RECURVID_API_KEY or give --api-key-file; "
                "visitors are asked for that key"
            )
