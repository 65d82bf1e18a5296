"""From a float model and a policy to a quantized model, and from there to integers."""
