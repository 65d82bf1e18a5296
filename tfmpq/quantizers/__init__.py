"""Fake quantization as Keras objects: quantizers, quantize configs, the wrapper, and choices of bit-width."""
