"""The plain differentiable search of EdMIPS and GMPQ: one gradient, nothing about sharpness."""

from tfmpq.methods.gradient import GradientMethod

METHOD = GradientMethod(None)
