"""From integers to a `.tflite` file, and between forms of it."""
