"""Words and pictures -> what conditions the backbone."""

from recurvid.encoders.encode import PromptEmbeds, PromptEncoder, TextFiles

__all__ = ["PromptEmbeds", "PromptEncoder", "TextFiles"]
