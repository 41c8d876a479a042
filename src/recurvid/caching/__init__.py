"""Step caches: skip the blocks in steps whose outcome can be told from the steps before."""
