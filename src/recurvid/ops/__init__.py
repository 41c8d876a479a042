"""Tensor operations that a backbone is built from."""
