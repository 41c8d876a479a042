"""Commands that messages tell people to run."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path


def resume_command(folder: Path) -> str:
    """``recurvid resume FOLDER``, quoted so that it can be copied into this system's shell."""
    words = ["recurvid", "resume", str(folder)]
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)
