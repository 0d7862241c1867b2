"""Recorded interactions as Arrow shards: built, read, ordered and batched."""
