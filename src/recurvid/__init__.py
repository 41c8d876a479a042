"""RecurVid: one picture and a prompt become a long video, section by section."""

from recurvid._version import __version__

__all__ = ["__version__"]
