"""SAGM (Wang et al., CVPR 2023): both gradients averaged, aligned by alpha, at a fixed radius."""

from tfmpq.methods.gradient import GradientMethod
from tfmpq.training.sharpness import RadiusSchedule
from tfmpq.training.step import SharpnessOptions

METHOD = GradientMethod(SharpnessOptions(RadiusSchedule("fixed"), alpha=1e-3), ("alpha",))
