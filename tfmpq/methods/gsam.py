"""GSAM (Zhuang et al., ICLR 2022): SAM's descent, less what of the first gradient is orthogonal to it.

Alpha is that of the authors' CIFAR example. There the radius is fixed too; for ImageNet they let it follow
the learning rate, which is not offered.
"""

from tfmpq.methods.gradient import GradientMethod
from tfmpq.training.sharpness import RadiusSchedule
from tfmpq.training.step import SharpnessOptions

METHOD = GradientMethod(SharpnessOptions(RadiusSchedule("fixed"), alpha=0.4, update="gap-guided"), ("alpha",))
