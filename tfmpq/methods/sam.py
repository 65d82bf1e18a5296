"""SAM (Foret et al., ICLR 2021): only the gradient at the perturbed point is descended; fixed radius."""

from tfmpq.gradient_search import GradientMethod
from tfmpq.sharpness import RadiusSchedule
from tfmpq.training import SharpnessOptions

METHOD = GradientMethod(SharpnessOptions(RadiusSchedule("fixed"), alpha=0.0, update="second"))
