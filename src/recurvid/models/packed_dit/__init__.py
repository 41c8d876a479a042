"""HunyuanVideo's transformer over a packed context, as FramePack's checkpoints have it."""
