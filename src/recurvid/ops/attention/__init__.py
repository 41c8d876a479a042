"""Attention kernels behind one function type."""
