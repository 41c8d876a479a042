"""Pixels to latents and back."""

from recurvid.vae.codec import Codec, DecodeStream, PixelFrames

__all__ = ["Codec", "DecodeStream", "PixelFrames"]
