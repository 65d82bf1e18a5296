"""The training step, sharpness, the loop, and the run folder that makes it resumable."""
