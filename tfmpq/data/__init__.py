"""Images in: sources, preprocessing, and deterministic batches."""
