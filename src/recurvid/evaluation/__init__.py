"""Measures of finished videos: likeness to a picture, motion."""
