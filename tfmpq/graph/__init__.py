"""A Keras model as a fused network: layers, rewrites, nodes and tensors, and the integers of a frozen one."""
