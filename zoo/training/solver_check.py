"""The check `solver` of the proof: the head that a solver fitted is where its objective is smallest.

Nothing here is asked from the solver but its strength and the standardised form of its solution, which is what is
checked. The objective is torch's own cross-entropy, and its gradient torch's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from zoo.probes.logistic import NEARLY_CONSTANT, SHARE, LogisticFit
from zoo.specs.run_result import Check
from zoo.storage.tensors import tensors_digest

FLAT = 1e-4
"""Largest norm of the gradient at the end, as a share of what it is for a head of zeros. Rounding the weights to
float32 leaves 1e-8 to 1e-6; stopping after twenty steps leaves more than 3e-4."""
SAME = 1e-5
"""Largest difference of logits, as a share of the sum of what they add up. Float32 leaves about 1e-7."""
_SHOWN = 10


def check_solver(
    head: nn.Module,
    features: Tensor,
    targets: Tensor,
    *,
    fit: LogisticFit,
    states: Sequence[Mapping[str, Tensor]],
    penalties: Tensor,
    class_weights: Tensor | None,
    label_smoothing: float,
    stage: str,
) -> Check:
    """Check a fitted head.

    Args:
        head: The head, in evaluation mode.
        features: features[N, F] that it was fitted to.
        targets: Class indices[N].
        fit: What the solver says that it found.
        states: Two states of the head, tensors of any shape by name, fitted to the same.
        penalties: penalties[F], factors of the strength.
        class_weights: weights[classes], or None.
        label_smoothing: The share of a target that is spread over all classes.
        stage: The stage's name.
    """
    device = next(head.parameters()).device
    with torch.no_grad():
        logits = head(features.to(device)).cpu()
    weight, bias = _affine(head, features.shape[1], device)
    first, last = states
    differing = [name for name in last if not torch.equal(first[name], last[name])]
    flat = _gradient_share(weight, bias, features, targets, fit.strength * penalties, class_weights, label_smoothing)
    size = float((features.double().abs() @ weight.abs().T + bias.abs()).max())
    apart = float((fit.standardised_logits(features) - logits).abs().max()) / max(size, 1e-30)
    faults = [f"{name} came out differently when fitted again" for name in differing]
    # Not finite fails as well: the comparisons are written so that nan does.
    faults += [] if flat <= FLAT else [f"the gradient at the end is {flat:.2g} of the one at the beginning"]
    faults += [] if apart <= SAME else [f"the layer gives other logits than its standardised form, by {apart:.2g}"]
    return Check(
        name="solver",
        stage=stage,
        verdict="failed" if faults else "passed",
        summary="; ".join(faults)
        or f"fitted twice to the same bits; the gradient at the end is {flat:.1g} of the one at the beginning; "
        "standardisation is folded into the layer",
        evidence={
            "differing": differing[:_SHOWN],
            "strength": fit.strength,
            "gradient": flat,
            "logits_apart": apart,
            "digest": tensors_digest(last),
        },
    )


def _affine(head: nn.Module, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The head as the affine map that it should be -> weight[classes, F] and bias[classes], float64, by its parameters.

    Found by their shapes, not by what the plugin says that its layer is.
    """
    parameters = [parameter.detach().cpu().double() for parameter in head.parameters()]
    (weight,) = (parameter for parameter in parameters if parameter.ndim == 2 and parameter.shape[1] == width)
    (bias,) = (parameter for parameter in parameters if parameter.ndim == 1)
    return weight, bias


def _gradient_share(
    weight: Tensor,
    bias: Tensor,
    features: Tensor,
    targets: Tensor,
    strengths: Tensor,
    class_weights: Tensor | None,
    smoothing: float,
) -> float:
    """Norm of the objective's gradient at weight[classes, F] and bias[classes], over that at zeros.

    `strengths[F]` are those of the penalty on each column.
    """
    classes = len(bias)
    # From here on by definition, not by the code of the solver, whose faults would cancel out.
    of_classes = torch.ones(classes, dtype=torch.float64) if class_weights is None else class_weights.cpu().double()
    of_images = of_classes[targets]
    shares = of_images / of_images.sum()
    values = features.double()
    mean = (shares[:, None] * values).sum(0)
    deviation = (shares[:, None] * (values - mean) ** 2).sum(0).sqrt()
    moving = deviation > NEARLY_CONSTANT * values.abs().amax(0)
    if not bool(moving.any()):
        # Where no feature varies, a head of zeros is the answer.
        return 0.0 if not bool(weight.any()) else float("inf")
    values, mean, deviation, weight = values[:, moving], mean[moving], deviation[moving], weight[:, moving]
    strengths = strengths[moving]
    deviation = deviation.pow(SHARE) * deviation.square().mean().pow((1 - SHARE) / 2)
    standardised = (values - mean) / deviation

    def norm(weights: Tensor, biases: Tensor) -> float:
        weights, biases = weights.clone().requires_grad_(), biases.clone().requires_grad_()
        loss = nn.functional.cross_entropy(
            standardised @ weights.T + biases, targets, of_classes, label_smoothing=smoothing, reduction="sum"
        )
        objective = loss / of_images.sum() + 0.5 * (strengths * weights.square()).sum()
        found = torch.autograd.grad(objective, [weights, biases])
        return float(torch.cat([each.flatten() for each in found]).norm())

    at_zero = norm(torch.zeros_like(weight), torch.zeros_like(bias))
    # Turned back into what it is for standardised features, where the penalty belongs.
    return norm(weight * deviation, bias + weight @ mean) / max(at_zero, 1e-12)
