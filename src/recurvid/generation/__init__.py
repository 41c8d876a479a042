"""One video, start to finish."""
