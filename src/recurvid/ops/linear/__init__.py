"""Linear layers that compute in 8 bits, or keep their weights in 8 or 4."""
