"""What the step of each sharpness-aware method does, in one table that searches and fine-tunings share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from tfmpq.training.perturbation import Perturb
from tfmpq.training.sharpness import RadiusSchedule
from tfmpq.training.step import Norm, SharpnessOptions

PRESETS: Mapping[str, SharpnessOptions] = {
    # ASGA (arXiv 2505.04877): SAGM's step with a radius that adapts to the surrogate gap.
    "asga": SharpnessOptions(RadiusSchedule("inverse"), alpha=1e-3),
    # SAGM (Wang et al., CVPR 2023): both gradients averaged, aligned by alpha, at a fixed radius.
    "sagm": SharpnessOptions(RadiusSchedule("fixed"), alpha=1e-3),
    # SAM (Foret et al., ICLR 2021): only the gradient at the perturbed point is descended; fixed radius.
    "sam": SharpnessOptions(RadiusSchedule("fixed"), alpha=0.0, update="second"),
    # SAQ (arXiv 2111.12273): SAM's descent, perturbed after quantization. The paper's radii, 0.3 to 0.9, are
    # for weights that are standardised layer by layer; docs/results/saq.md has what they do to others.
    "saq": SharpnessOptions(RadiusSchedule("fixed", rho_max=0.01), alpha=0.0, update="second"),
    # GSAM (Zhuang et al., ICLR 2022): SAM's descent, less what of the first gradient is orthogonal to it.
    # Alpha is that of the authors' CIFAR example. There the radius is fixed too; for ImageNet they let it
    # follow the learning rate, which is not offered.
    "gsam": SharpnessOptions(RadiusSchedule("fixed"), alpha=0.4, update="gap-guided"),
}
"""By name of the method."""

ADAPTIVE_RHO = 0.5
"""ASAM's radius for CIFAR-10; it is relative to the weights, unlike that of the other forms."""

SAQ_CASES: Mapping[int, Perturb] = {1: "independent", 2: "latent", 3: "quantized"}
"""Which kernels SAQ's three cases perturb; the paper adopts the third."""


def of_fine_tuning(
    method: str,
    *,
    saq_case: int | None,
    rho: float | None,
    adaptive: bool,
    norm: str,
    second_gradient_every: int,
) -> SharpnessOptions | None:
    """The step of a fine-tuning; None for `qat`, whose step is the plain gradient's.

    Args:
        method: `qat`, `sam` or `saq`. Other than in a search, `sam` perturbs latent kernels, SAQ's case 2.
        saq_case: Of `saq`, 1 or 3; None for 3.
        rho: Radius; None for the preset's.
        adaptive: Whether to perturb in proportion to the weights.
        norm: `global` or `layer`.
        second_gradient_every: Steps from one second gradient to the next.
    """
    if method == "qat":
        return None
    preset = PRESETS[method]
    radius = rho or (ADAPTIVE_RHO if adaptive else preset.radius.rho_max)
    return replace(
        preset,
        radius=replace(preset.radius, rho_max=radius),
        perturb=SAQ_CASES[2 if method == "sam" else saq_case or 3],
        adaptive=adaptive,
        norm=cast(Norm, norm),
        second_gradient_every=second_gradient_every,
    )
