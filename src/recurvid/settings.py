"""Paths and machine defaults; the only reader of the environment.

RECURVID_HOME    where caches live (default: the platform's cache directory / recurvid)
RECURVID_MODELS  extra folder of model files in the hub's layout, searched before the hub cache
RECURVID_DEVICE  default of --device (auto)
RECURVID_DRAFT_DECODER
                 a file in TAEHV's layout that draws the previews of released models, for `serve`
                 and `gui` too; default of --draft-decoder
RECURVID_API_KEY the key that `serve` and `gui` ask for; one of 8 characters or more
RECURVID_VISION_URL, RECURVID_VISION_MODEL, RECURVID_VISION_KEY
                 an OpenAI-compatible endpoint that writes prompts from pictures, for the page
RECURVID_DEBUG   1: the command line shows where an error was raised
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Machine-wide defaults. They never change the meaning of a request."""

    home: Path
    models: Path | None
    device: str
    debug: bool = False
    draft_decoder: Path | None = None
    api_key: str | None = field(default=None, repr=False)
    vision_url: str | None = None
    vision_model: str = ""
    vision_key: str | None = field(default=None, repr=False)

    @property
    def prompt_cache(self) -> Path:
        """Where prompt embeddings are kept between runs."""
        return self.home / "prompts"

    @property
    def sessions(self) -> Path:
        """Where sessions without an explicit folder live."""
        return self.home / "sessions"


def _default_home() -> Path:
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return Path(base) / "recurvid" if base else Path.home() / "AppData/Local/recurvid"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/recurvid"
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base) / "recurvid" if base else Path.home() / ".cache/recurvid"


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process, read once."""
    home = os.environ.get("RECURVID_HOME")
    models = os.environ.get("RECURVID_MODELS")
    draft = os.environ.get("RECURVID_DRAFT_DECODER")
    return Settings(
        home=Path(home) if home else _default_home(),
        models=Path(models) if models else None,
        device=os.environ.get("RECURVID_DEVICE", "auto"),
        debug=os.environ.get("RECURVID_DEBUG") == "1",
        draft_decoder=Path(draft) if draft else None,
        api_key=os.environ.get("RECURVID_API_KEY") or None,
        vision_url=os.environ.get("RECURVID_VISION_URL") or None,
        vision_model=os.environ.get("RECURVID_VISION_MODEL", ""),
        vision_key=os.environ.get("RECURVID_VISION_KEY") or None,
    )


def prepare_gradio(uploads: Path) -> None:
    """Tell Gradio where uploads go, and that it reports nothing; it reads only the environment.

    Args:
        uploads: a folder of this process alone. Gradio's own default is shared by all programs
            of the machine, and a page serves what lies in it.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    os.environ["GRADIO_EXAMPLES_CACHE"] = str(uploads / "examples")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
