"""Recorded interactions as Arrow shards: how they are built, read, ordered and batched."""
