"""The `.tflite` format: reading, writing, bounds, layout, metadata."""
