"""Bytes on disk <-> named tensors. No model is known here, and nothing is ever unpickled."""
