"""TensorFlow Lite for Microcontrollers: what a file takes there, and C++ source of it."""
