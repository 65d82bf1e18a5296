"""The plain differentiable search of EdMIPS and GMPQ: one gradient, nothing about sharpness."""

from tfmpq.gradient_search import GradientMethod

METHOD = GradientMethod(None)
