"""SAGM (Wang et al., CVPR 2023): both gradients averaged, aligned by alpha, at a fixed radius."""

from tfmpq.gradient_search import GradientMethod
from tfmpq.sharpness import RadiusSchedule
from tfmpq.training import SharpnessOptions

METHOD = GradientMethod(SharpnessOptions(RadiusSchedule("fixed"), alpha=1e-3), ("alpha",))
