"""Pixels in, pixels out: pictures, sizes, video files. Nothing here knows a model."""
