"""SAM (Foret et al., ICLR 2021): only the gradient at the perturbed point is descended; fixed radius."""

from tfmpq.methods.gradient import GradientMethod
from tfmpq.training.sharpness import RadiusSchedule
from tfmpq.training.step import SharpnessOptions

METHOD = GradientMethod(SharpnessOptions(RadiusSchedule("fixed"), alpha=0.0, update="second"))
