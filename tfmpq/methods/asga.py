"""ASGA (arXiv 2505.04877): SAGM's step with a radius that adapts to the surrogate gap."""

from tfmpq.gradient_search import GradientMethod
from tfmpq.sharpness import RadiusSchedule
from tfmpq.training import SharpnessOptions

METHOD = GradientMethod(SharpnessOptions(RadiusSchedule("inverse"), alpha=1e-3), ("radius", "phi", "alpha"))
