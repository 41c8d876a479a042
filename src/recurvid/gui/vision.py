"""A prompt from a picture, by an OpenAI-compatible endpoint that the server's owner has set up.

The address comes from the environment of the server (``settings.vision_url``) and from nowhere
else: no form field, preset or video can send a picture somewhere.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import httpx
from PIL import Image

from recurvid.errors import ComponentError
from recurvid.video.pictures import load_picture

_SECONDS = 60.0
_LONGEST_SIDE = 1024
_LONGEST_ANSWER = 2000


@dataclass(frozen=True)
class Vision:
    """An endpoint with eyes.

    Attributes:
        url: up to and without ``/chat/completions``, such as ``http://127.0.0.1:1234/v1``.
        model: its name there.
        key: sent as a bearer token.
    """

    url: str
    model: str
    key: str | None = None

    def prompt_for(self, picture: Path, instruction: str) -> str:
        """One prompt for a picture.

        Raises:
            PictureError: not a picture.
            ComponentError: the endpoint does not answer, or not in words.
        """
        content = [
            {"type": "text", "text": instruction},
            {"type": "image_url", "image_url": {"url": _as_data(picture)}},
        ]
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 300,
        }
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        try:
            answer = httpx.post(
                f"{self.url.rstrip('/')}/chat/completions",
                json=body,
                headers=headers,
                timeout=_SECONDS,
                follow_redirects=False,
            )
            answer.raise_for_status()
            text = answer.json()["choices"][0]["message"]["content"]
        except httpx.HTTPStatusError as error:
            code = error.response.status_code
            raise ComponentError(
                f"the vision endpoint refused (status {code})", "vision.refused", status=code
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ComponentError("the vision endpoint does not answer", "vision.silent") from error
        except (ValueError, LookupError, TypeError) as error:
            raise ComponentError(
                "the vision endpoint's answer is not understood", "vision.unclear"
            ) from error
        if not isinstance(text, str) or not text.strip():
            raise ComponentError("the vision endpoint answered without a prompt", "vision.empty")
        return " ".join(text.strip().strip('"').split())[:_LONGEST_ANSWER]


def _as_data(picture: Path) -> str:
    """The picture as a JPEG of moderate size, with nothing but its pixels."""
    image = Image.fromarray(load_picture(picture))
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
