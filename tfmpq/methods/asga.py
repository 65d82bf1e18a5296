"""ASGA (arXiv 2505.04877): SAGM's step with a radius that adapts to the surrogate gap."""

from tfmpq.methods.gradient import GradientMethod
from tfmpq.training.sharpness import RadiusSchedule
from tfmpq.training.step import SharpnessOptions

METHOD = GradientMethod(SharpnessOptions(RadiusSchedule("inverse"), alpha=1e-3), ("radius", "phi", "alpha"))
