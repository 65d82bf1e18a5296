"""What the step of each sharpness-aware method does, in one table."""

from __future__ import annotations

from collections.abc import Mapping

from tfmpq.training.sharpness import RadiusSchedule
from tfmpq.training.step import SharpnessOptions

PRESETS: Mapping[str, SharpnessOptions] = {
    # ASGA (arXiv 2505.04877): SAGM's step with a radius that adapts to the surrogate gap.
    "asga": SharpnessOptions(RadiusSchedule("inverse"), alpha=1e-3),
    # SAGM (Wang et al., CVPR 2023): both gradients averaged, aligned by alpha, at a fixed radius.
    "sagm": SharpnessOptions(RadiusSchedule("fixed"), alpha=1e-3),
    # SAM (Foret et al., ICLR 2021): only the gradient at the perturbed point is descended; fixed radius.
    "sam": SharpnessOptions(RadiusSchedule("fixed"), alpha=0.0, update="second"),
    # GSAM (Zhuang et al., ICLR 2022): SAM's descent, less what of the first gradient is orthogonal to it.
    # Alpha is that of the authors' CIFAR example. There the radius is fixed too; for ImageNet they let it
    # follow the learning rate, which is not offered.
    "gsam": SharpnessOptions(RadiusSchedule("fixed"), alpha=0.4, update="gap-guided"),
}
"""By name of the method."""
