"""The examples of the API's description: shell commands, each of which is run by a test.

``$SERVER`` is the server's address and ``$JOB`` the name of a job. They are run where
``examples/valley.jpg`` is.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Put behind every ``curl`` where a key is needed.
WITH_KEY = '-H "Authorization: Bearer $RECURVID_API_KEY"'


@dataclass(frozen=True)
class Example:
    """One command for one operation.

    Attributes:
        method, path: the operation, as in the description.
        command: for a shell.
        title: what it does.
    """

    method: str
    path: str
    command: str
    title: str

    def keyed(self) -> str:
        """The command for a server that needs a key."""
        return self.command.replace("curl -sS", f"curl -sS {WITH_KEY}")


def _get(path: str, title: str, rest: str = "") -> Example:
    address = path.replace("{id}", "$JOB")
    return Example("GET", path, f"curl -sS {rest}$SERVER{address}", title)


def _post(path: str, title: str, rest: str = "-X POST ") -> Example:
    address = path.replace("{id}", "$JOB")
    return Example("POST", path, f"curl -sS {rest}$SERVER{address}", title)


_REQUEST = '{"prompt": "pan left", "seconds": 2, "seed": 7, "size": "128x96"}'
_JSON = "-H 'Content-Type: application/json' "

EXAMPLES = (
    _post(
        "/v1/videos",
        "A video as OpenAI's clients ask for it",
        "-F prompt='pan left' -F seconds=2 -F input_reference=@examples/valley.jpg ",
    ),
    _get("/v1/videos", "The newest five", "-G -d limit=5 "),
    _get("/v1/videos/{id}", "How it stands"),
    _get("/v1/videos/{id}/content", "Save the finished video", "-f -o valley.mp4 "),
    Example("DELETE", "/v1/videos/{id}", "curl -sS -X DELETE $SERVER/v1/videos/$JOB", "Delete it"),
    _get("/v1/models", "The models that are here"),
    Example("GET", "/v1/models/{model}", "curl -sS $SERVER/v1/models/bundled", "One of them"),
    _post(
        "/api/jobs",
        "A video with settings of its own",
        f"-F picture=@examples/valley.jpg -F 'request={_REQUEST}' ",
    ),
    _get("/api/jobs", "What runs and waits", "-G -d state=running -d state=queued "),
    _get("/api/jobs/{id}", "Everything about it"),
    Example(
        "PUT",
        "/api/jobs/{id}",
        f"curl -sS -X PUT {_JSON}-d '{{\"request\": {_REQUEST}}}' $SERVER/api/jobs/$JOB",
        "Ask for something else before it begins",
    ),
    Example("DELETE", "/api/jobs/{id}", "curl -sS -X DELETE $SERVER/api/jobs/$JOB", "Delete it"),
    _post("/api/jobs/{id}/cancel", "Stop it"),
    _post("/api/jobs/{id}/resume", "Go on with it"),
    _post("/api/jobs/{id}/duplicate", "The same once more"),
    _post("/api/jobs/{id}/move", "Put it last", f"{_JSON}-d '{{\"before\": null}}' "),
    _get("/api/jobs/{id}/events", "Follow it until it is over", "-N "),
    _get("/api/events", "Follow all for five seconds", "-N -m 5 "),
    _get("/api/jobs/{id}/picture", "Its start picture", "-f -o picture.png "),
    _get("/api/jobs/{id}/end_picture", "Its end picture", "-f -o end.png "),
    _get("/api/jobs/{id}/preview", "A look at the running section", "-f -o preview.webp "),
    _get("/api/jobs/{id}/so_far", "The video so far", "-f -o so_far.mp4 "),
    _get("/api/jobs/{id}/video", "The first kilobyte of the video", "-f -r 0-1023 -o head.mp4 "),
    _get("/api/jobs/{id}/thumbnail", "Its first frame", "-f -o thumbnail.webp "),
    _get("/api/jobs/{id}/sheet", "Its frames side by side", "-f -o sheet.jpg "),
    _get("/api/models", "The models"),
    _get("/api/queue", "The queue"),
    _get("/healthz", "Does it answer?"),
    _get("/metrics", "Numbers for Prometheus"),
)
