"""Files as answers of the API."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from recurvid.jobs.sending import FileToSend
from recurvid.server.guard import HEAD
from recurvid.server.problems import Problem, answer


class FileAnswer(Response):
    """One file of a job.

    Args:
        path: of the file.
        media_type: of its content.
        name: under which a browser saves it; "" shows it.
        missing: what is told when it is gone.
    """

    def __init__(self, path: Path, media_type: str, name: str = "", missing: str = "it is gone"):
        super().__init__(media_type=media_type)
        self.path, self.missing = path, missing
        del self.headers["content-length"]
        self.headers["cache-control"] = "private, no-cache"
        if name:
            self.headers["content-disposition"] = f'attachment; filename="{name}"'

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, or the part that was asked for, or that it is gone."""

        async def refuse(status: int, headers: Mapping[str, str]) -> None:
            detail = self.missing if status == 404 else "Range: is not in the file"
            problem = Problem(status, detail, headers=dict(headers))
            await answer(problem)(scope, receive, send)

        file = FileToSend(self.path, self.headers)
        await file.send(scope, receive, send, refuse, body=not scope.get(HEAD))
