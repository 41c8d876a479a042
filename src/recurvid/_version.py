"""The version: one place, read by the package, the changelog check and the session fingerprint."""

__version__ = "0.1.0"
