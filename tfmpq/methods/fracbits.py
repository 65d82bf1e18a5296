"""FracBits (arXiv 2007.02017, AAAI 2021): one real-valued width a choice, plain gradients."""

from tfmpq.methods.gradient import GradientMethod

METHOD = GradientMethod(None, relaxation="fractional")
