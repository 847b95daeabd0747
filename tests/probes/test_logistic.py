"""The linear probe is the minimum of its objective, whatever the features' scale, order or number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional
from zoo.errors import FeaturesError
from zoo.probes import logistic
from zoo.probes.logistic import LogisticFit, LogisticProblem, fit_each_without


@dataclass(frozen=True)
class Case:
    """Features[N, F] that do not separate the classes, their targets[N], and how the loss weighs them."""

    images: int
    columns: int
    classes: int
    strength: float
    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0

    @property
    def targets(self) -> Tensor:
        return torch.randint(self.classes, (self.images,), generator=torch.Generator().manual_seed(1))

    @property
    def features(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.images)
        noise = torch.randn(self.images, self.columns, generator=generator)
        mixed = noise @ torch.randn(self.columns, self.columns, generator=generator) / self.columns**0.5
        centres = torch.randn(self.classes, self.columns, generator=generator)
        return (mixed + 0.5 * centres[self.targets]).relu() * 3 + 1

    def weights(self) -> Tensor | None:
        return None if self.class_weights is None else torch.tensor(self.class_weights)

    def fit(self, features: Tensor | None = None, targets: Tensor | None = None, **changed: Any) -> LogisticFit:
        problem = LogisticProblem(
            self.features if features is None else features,
            self.targets if targets is None else targets,
            self.classes,
            **{"class_weights": self.weights(), "label_smoothing": self.label_smoothing, **changed},
        )
        return problem.fit(self.strength)


CASES = [
    Case(60, 7, 3, 0.1),
    Case(60, 7, 2, 1e-3),
    Case(30, 80, 4, 0.05),
    Case(60, 7, 3, 0.1, class_weights=(0.5, 1.0, 4.0)),
    Case(60, 7, 3, 0.1, label_smoothing=0.2),
    Case(40, 50, 3, 0.02, class_weights=(0.5, 1.0, 4.0), label_smoothing=0.1),
]


def reference(case: Case) -> tuple[Tensor, Tensor]:
    """The minimum of the objective as defined, by scipy and torch's own loss -> weights[classes, F], bias[classes]."""
    features, targets = case.features.double(), case.targets
    class_weights = torch.ones(case.classes) if case.weights() is None else case.weights()
    assert class_weights is not None
    class_weights = class_weights.double()
    shares = class_weights[targets] / class_weights[targets].sum()
    mean = shares @ features
    deviation = (shares @ (features - mean) ** 2).sqrt()
    divisor = (deviation * deviation.square().mean().sqrt()).sqrt()
    standardised = (features - mean) / divisor

    def objective(flat: Any) -> tuple[float, Any]:
        parameters = torch.tensor(flat, requires_grad=True)
        weight, bias = parameters[: -case.classes].view(case.classes, -1), parameters[-case.classes :]
        loss = functional.cross_entropy(
            standardised @ weight.T + bias, targets, class_weights, label_smoothing=case.label_smoothing
        )
        value = loss + case.strength / 2 * weight.square().sum()
        (gradient,) = torch.autograd.grad(value, parameters)
        return float(value.detach()), gradient.numpy()

    start = numpy.zeros(case.classes * (case.columns + 1))
    found = minimize(objective, start, jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 5000})
    weight = torch.tensor(found.x[: -case.classes]).view(case.classes, -1) / divisor
    return weight, torch.tensor(found.x[-case.classes :]) - weight @ mean


def logits_of(fit: LogisticFit, features: Tensor) -> Tensor:
    """features[N, F] -> logits[N, classes]; the same number may be added to all of an image's logits."""
    logits = features.double() @ fit.weight.double().T + fit.bias.double()
    return logits - logits.mean(1, keepdim=True)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_fit_is_the_minimum_of_the_objective(case: Case) -> None:
    fit = case.fit()
    weight, bias = reference(case)
    torch.testing.assert_close(fit.weight.double(), weight, atol=2e-5, rtol=1e-4)
    assert fit.weight.dtype == fit.bias.dtype == torch.float32
    expected = case.features.double() @ weight.T + bias
    torch.testing.assert_close(
        logits_of(fit, case.features), expected - expected.mean(1, keepdim=True), atol=1e-4, rtol=1e-4
    )
    assert fit.gradient_norm < 1e-5 and fit.iterations > 0


@pytest.mark.parametrize("case", CASES[:3], ids=str)
def test_the_layer_for_raw_features_gives_the_logits_of_the_standardised_form(case: Case) -> None:
    fit = case.fit()
    raw = case.features @ fit.weight.T + fit.bias
    torch.testing.assert_close(raw.double(), fit.standardised_logits(case.features), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_scaling_all_columns_and_moving_each_changes_no_logit(case: Case) -> None:
    generator = torch.Generator().manual_seed(5)
    shifts = 3 * torch.randn(case.columns, generator=generator)
    moved = case.features * 7 + shifts
    torch.testing.assert_close(
        logits_of(case.fit(moved), moved), logits_of(case.fit(), case.features), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_neither_the_order_nor_a_second_copy_of_all_images_changes_the_fit(case: Case) -> None:
    order = torch.randperm(case.images, generator=torch.Generator().manual_seed(2))
    for features, targets in (
        (case.features[order], case.targets[order]),
        (torch.cat([case.features] * 2), torch.cat([case.targets] * 2)),
    ):
        torch.testing.assert_close(case.fit(features, targets).weight, case.fit().weight, atol=1e-5, rtol=1e-4)


def test_a_class_weight_of_two_is_every_image_of_the_class_twice() -> None:
    case = CASES[0]
    twice = case.targets == 1
    copied = case.fit(torch.cat([case.features, case.features[twice]]), torch.cat([case.targets, case.targets[twice]]))
    weighted = case.fit(class_weights=torch.tensor([1.0, 2.0, 1.0]))
    torch.testing.assert_close(copied.weight, weighted.weight, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("images", [60, 9], ids=["more images than columns", "fewer"])
def test_turning_to_principal_axes_is_exact(images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(images, 12, 3, 0.05)
    turned = case.fit()
    monkeypatch.setattr(logistic, "LARGEST_TURN", 0)
    torch.testing.assert_close(case.fit().weight, turned.weight, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("images", [60, 9])
def test_a_penalty_of_its_own_holds_a_column_down(images: int) -> None:
    case = Case(images, 12, 3, 0.05)
    plain = case.fit(penalties=torch.ones(12)).weight
    torch.testing.assert_close(plain, case.fit().weight)
    held = case.fit(penalties=torch.tensor([1e6] + [1.0] * 11)).weight
    assert held[:, 0].abs().max() < 1e-4 * plain[:, 0].abs().max()
    # A penalty of 4 on W² is a strength of 4 where every column has it.
    everywhere = case.fit(penalties=torch.full((12,), 4.0)).weight
    stronger = LogisticProblem(case.features, case.targets, 3).fit(4 * case.strength).weight
    torch.testing.assert_close(everywhere, stronger, atol=1e-5, rtol=1e-4)


def test_constant_columns_get_no_weight_and_change_nothing() -> None:
    case = CASES[0]
    constant = torch.tensor([0.0, 123.456]).expand(case.images, 2)
    fit = case.fit(torch.cat([case.features, constant], dim=1))
    assert fit.constant == 2 and not bool(fit.weight[:, -2:].any())
    torch.testing.assert_close(fit.weight[:, :-2], case.fit().weight, atol=1e-5, rtol=1e-4)


def test_of_constant_features_the_classes_shares_are_learned() -> None:
    targets = torch.tensor([0] * 6 + [1] * 2)
    fit = LogisticProblem(torch.ones(8, 5), targets, 2).fit(0.1)
    assert fit.constant == 5 and not bool(fit.weight.any())
    torch.testing.assert_close(fit.bias.softmax(0), torch.tensor([0.75, 0.25]))


def test_a_unit_that_was_almost_silent_in_training_does_not_shout_later() -> None:
    case = CASES[0]
    silent = torch.zeros(case.images, 1)
    silent[0] = 1e-5
    fit = case.fit(torch.cat([case.features, silent], dim=1))
    others = fit.weight[:, :-1].abs().max()
    assert float(fit.weight[:, -1].abs().max()) < 100 * float(others)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_features_that_are_not_finite_are_counted_and_refused(wrong: float) -> None:
    features = CASES[0].features
    features[[3, 5], 2] = wrong
    features[3, 4] = wrong
    with pytest.raises(FeaturesError) as raised:
        CASES[0].fit(features)
    assert "features of 2 of 60 images are not finite (in 2 of 7 columns)" in str(raised.value)
    assert "Next: --precision float32" in str(raised.value)


def test_the_same_problem_has_the_same_bits() -> None:
    first, second = CASES[2].fit(), CASES[2].fit()
    assert torch.equal(first.weight, second.weight) and torch.equal(first.bias, second.bias)


def test_folds_are_fitted_as_if_their_images_were_not_there() -> None:
    case = Case(80, 6, 3, 0.1)
    held_out = torch.zeros(2, 80, dtype=torch.bool)
    held_out[0, :20], held_out[1, 20:40] = True, True
    problem = LogisticProblem(case.features, case.targets, 3)
    logits, _ = problem.held_out_logits(case.strength, held_out)
    assert bool(logits[40:].isnan().all()) and not bool(logits[:40].isnan().any())
    # The same standardisation for the reference, as all folds share one.
    standardised = (case.features.double() - problem.columns.mean) / problem.columns.divisor
    for out in held_out:
        kept = standardised[~out].requires_grad_(False)
        weight, bias = torch.zeros(3, 6).double().requires_grad_(), torch.zeros(3).double().requires_grad_()
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=500, line_search_fn="strong_wolfe")

        def closure(kept: Tensor = kept, out: Tensor = out, weight: Tensor = weight, bias: Tensor = bias) -> Any:
            loss = functional.cross_entropy(kept @ weight.T + bias, case.targets[~out])
            value = loss + case.strength / 2 * weight.square().sum()
            weight.grad, bias.grad = torch.autograd.grad(value, [weight, bias])
            return value

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        expected = (standardised[out] @ weight.T + bias).detach().float()
        torch.testing.assert_close(logits[out].softmax(1), expected.softmax(1), atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("together", [logistic.TOGETHER, 1], ids=["at once", "one after the other, fold by fold"])
def test_problems_that_are_fitted_together_do_not_know_of_one_another(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(80, 30, 3, 0.1)
    draw = torch.Generator().manual_seed(3)
    # Subsets of 20 have fewer columns than one that has constant columns less.
    subsets = [torch.randperm(80, generator=draw)[:20] for _ in range(3)]
    features = case.features
    features[subsets[1], 5:] = 1
    problems = [LogisticProblem(features[kept], case.targets[kept], 3) for kept in subsets]
    assert [each.width for each in problems] == [19, 5, 19]
    masks = [torch.arange(20) % 4 == torch.arange(first, first + 2)[:, None] for first in range(3)]
    start: list[Tensor] | None = None
    begun: Tensor | None = None
    for strength in (1.0, 0.1):
        monkeypatch.setattr(logistic, "TOGETHER", 1 << 25)
        alone = [
            problem.fit_without(strength, out, None if start is None else start[number], 1e-5)
            for number, (problem, out) in enumerate(zip(problems, masks, strict=True))
        ]
        monkeypatch.setattr(logistic, "TOGETHER", together)
        begun = fit_each_without(problems, strength, masks, begun, 1e-5)
        for each, problem, expected in zip(begun, problems, alone, strict=True):
            assert not bool(each[:, problem.width : -1].any())
            own = torch.cat([each[:, : problem.width], each[:, -1:]], dim=1)
            torch.testing.assert_close(own, expected, atol=1e-3, rtol=1e-3)
        start = alone


def test_fits_without_any_image_are_refused_together_as_alone() -> None:
    case = CASES[0]
    problem = LogisticProblem(case.features, case.targets, 3)
    nothing = torch.ones(1, 60, dtype=torch.bool)
    with pytest.raises(FeaturesError, match="no image left"):
        problem.fit_without(1.0, nothing)
    with pytest.raises(FeaturesError, match="no image left"):
        fit_each_without([problem] * 2, 1.0, [nothing] * 2)
