"""The written file, read back and recomputed."""
