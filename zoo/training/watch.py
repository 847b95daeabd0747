"""Watches one stage as it runs and says afterwards whether frozen stayed frozen and trained was trained.

It relies on the plan's groups alone, not on what the freezing did: a fault there must show here.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from zoo.errors import CheckFailed
from zoo.model.model import ZooModel
from zoo.planning.plan import StagePlan
from zoo.training.proof import Check

_SHOWN = 10
FIRST_STEPS = 3
"""Of a stage, whose losses and weights the proof notes."""
_LOSS_MUST_FALL = 1e-3
"""Share of the first epoch's loss; less is the noise of another order of the images."""


class NotFinite(CheckFailed):
    """The loss or a gradient is not finite; the stage was stopped before the optimizer used it."""


class StageWatch:
    """Made when a stage's freezing is done and before its first step."""

    def __init__(self, model: ZooModel, stage: StagePlan) -> None:
        self._model = model
        self._stage = stage
        self._name = stage.settings.name
        self._trained = {name: each for name, each in model.named_parameters() if self._trains(name)}
        self._must_rest = _must_rest(model, stage)
        self._frozen_before = self._frozen_digests()
        self._trained_before = {name: tensor_digest(each) for name, each in self._trained.items()}
        self.names = frozenset(self._trained) | {name for name, _ in model.named_buffers() if self._trains(name)}
        """Parameters and buffers that may change, by full name."""
        self._rate = max(stage.rates.values(), default=0.0)
        self._awake: Counter[str] = Counter()
        self._steps = 0
        self._with_gradient: set[str] = set()
        self._only_zeros: set[str] = set()
        self._not_finite: list[str] = []
        self._losses: list[float] = []
        self._first_losses: list[str] = []
        self._first_digest = ""
        self._reseeded: list[int] = []
        self._optimizer: Check | None = None
        self._finite: Check | None = None
        self._closed_form: Check | None = None

    def rate_found(self, rate: float) -> None:
        """What `auto` turned out to be."""
        self._rate = rate

    def optimizer_made(self, optimizer: Optimizer) -> None:
        """Compare the optimizer's parameters with the plan's."""
        names = {id(each): name for name, each in self._model.named_parameters()}
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        held = Counter(names.get(id(each), "(not of the model)") for each in parameters)
        twice = sorted(name for name, count in held.items() if count > 1)
        forgotten = sorted(set(self._trained) - set(held))
        extra = sorted(set(held) - set(self._trained))
        faults = {"twice": twice, "forgotten": forgotten, "not to be trained": extra}
        wrong = {what: found for what, found in faults.items() if found}
        said = "; ".join(f"{what}: {found[0]}" for what, found in wrong.items())
        self._optimizer = Check(
            name="optimizer_groups",
            stage=self._name,
            verdict="failed" if wrong else "passed",
            summary=said or f"the optimizer holds exactly the {len(self._trained)} trainable tensors, each once",
            evidence={what: found[:_SHOWN] for what, found in wrong.items()} | {"tensors": len(held)},
        )

    def fitted(self, first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
        """Compare the head's state after fitting it twice to the same features: a closed form has one answer."""
        differing = [name for name in second if not torch.equal(first[name], second[name])]
        wrong = differing + [name for name, each in second.items() if not bool(torch.isfinite(each).all())]
        if wrong:
            summary = f"{_first_of(wrong)} is not finite, or came out differently when fitted again"
        else:
            summary = (
                f"fitted twice to the same features, the head's {len(second)} tensors are finite and the same bits"
            )
        self._closed_form = Check(
            name="closed_form",
            stage=self._name,
            verdict="failed" if wrong else "passed",
            summary=summary,
            evidence={
                "differing": wrong[:_SHOWN],
                "tensors": len(second),
                "digest": _combined({name: tensor_digest(each) for name, each in second.items()}),
            },
        )

    def step_begins(self) -> None:
        """Look at the mode of everything that must rest."""
        self._steps += 1
        for name in self._must_rest:
            if self._model.get_submodule(name).training:
                self._awake[name] += 1

    def gradients_ready(self, loss: float) -> None:
        """Look at the gradients before the optimizer uses them. Raises NotFinite."""
        gradients = {name: each.grad for name, each in self._trained.items() if each.grad is not None}
        new = gradients.keys() - self._with_gradient
        self._with_gradient.update(gradients)
        self._only_zeros = {name for name in self._only_zeros | new if not bool(gradients[name].any())}
        norm = float(torch.nn.utils.get_total_norm(list(gradients.values()))) if gradients else 0.0
        if math.isfinite(loss) and math.isfinite(norm):
            return
        self._not_finite = [name for name, each in gradients.items() if not bool(torch.isfinite(each).all())]
        of = f"the gradient of {self._not_finite[0]}" if self._not_finite else "the loss"
        self._not_finite = self._not_finite or ["loss"]
        raise NotFinite(
            f"Stage {self._name!r}, step {self._steps}: {of} is not finite (loss {loss:.4g}), "
            f"at a learning rate of {self._rate:g}. The stage was stopped.\n"
            f"Next: lower it, for example --set {self._name}.lr={self._rate / 10:g}."
        )

    def stepped(self, loss: float) -> None:
        """Note the first steps, so that they can be compared when they are taken again (`zoo verify`)."""
        if len(self._first_losses) < FIRST_STEPS:
            self._first_losses.append(loss.hex())
            self._first_digest = _combined({name: tensor_digest(each) for name, each in self._trained.items()})

    def finished(self, val_logits: Tensor) -> None:
        """Look at what the stage ends with: the optimizer's last step is seen by no gradient."""
        wrong = [name for name, each in self._trained.items() if not bool(torch.isfinite(each).all())]
        if not bool(torch.isfinite(val_logits).all()):
            wrong.append("the validation logits")
        self._finite = Check(
            name="finite_result",
            stage=self._name,
            verdict="failed" if wrong else "passed",
            summary=f"not finite after the last step: {_first_of(wrong)}"
            if wrong
            else "what was trained and the validation logits are finite",
            evidence={"not_finite": wrong[:_SHOWN]},
        )

    @property
    def usable(self) -> bool:
        """Whether the stage ended with a model that can be kept."""
        return self._finite is not None and self._finite.verdict == "passed"

    def epoch_finished(self, train_loss: float, seeded: bool) -> None:
        """`seeded`: whether torch's generator still has the seed that the epoch gave it."""
        self._losses.append(train_loss)
        if not seeded:
            self._reseeded.append(len(self._losses))

    def state(self) -> dict[str, Any]:
        """What was seen so far, in plain JSON types."""
        return {
            "frozen_before": self._frozen_before,
            "trained_before": self._trained_before,
            "awake": dict(self._awake),
            "steps": self._steps,
            "with_gradient": sorted(self._with_gradient),
            "only_zeros": sorted(self._only_zeros),
            "losses": self._losses,
            "first_losses": self._first_losses,
            "first_digest": self._first_digest,
            "reseeded": self._reseeded,
        }

    def take_up(self, seen: Mapping[str, Any]) -> None:
        """Go on watching where `state` was taken: digests are compared with those of the stage's true beginning."""
        self._frozen_before = dict(seen["frozen_before"])
        self._trained_before = dict(seen["trained_before"])
        self._awake = Counter(seen["awake"])
        self._steps = seen["steps"]
        self._with_gradient = set(seen["with_gradient"])
        self._only_zeros = set(seen["only_zeros"])
        self._losses = list(seen["losses"])
        self._first_losses = list(seen["first_losses"])
        self._first_digest = seen["first_digest"]
        self._reseeded = list(seen["reseeded"])

    def checks(self) -> list[Check]:
        """The verdicts on this stage."""
        checks = [self._frozen_unchanged(), self._frozen_at_rest(), self._kinds()]
        checks += [self._closed_form] if self._closed_form else [self._gradients(), self._loss_moved(), self._seeds()]
        return [*checks, *(each for each in (self._optimizer, self._finite) if each is not None)]

    def _frozen_digests(self) -> dict[str, str]:
        tensors = {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}
        return {name: tensor_digest(each) for name, each in tensors.items() if not self._trains(name)}

    def _trains(self, name: str) -> bool:
        return self._model.trains(name, self._stage.trains, self._stage.tensors, self._stage.settings.batch_norm)

    def _frozen_unchanged(self) -> Check:
        after = self._frozen_digests()
        changed = [name for name, digest in self._frozen_before.items() if after.get(name) != digest]
        return Check(
            name="frozen_unchanged",
            stage=self._name,
            verdict="failed" if changed else "passed",
            summary=f"{_first_of(changed)} changed while frozen"
            if changed
            else f"{len(after)} frozen parameters and buffers are bit-identical before and after",
            evidence={
                "changed": changed[:_SHOWN],
                "tensors": len(after),
                "digest_before": _combined(self._frozen_before),
                "digest_after": _combined(after),
            },
        )

    def _frozen_at_rest(self) -> Check:
        awake = sorted(self._awake)
        return Check(
            name="frozen_in_evaluation_mode",
            stage=self._name,
            verdict="failed" if awake else "passed",
            summary=f"{awake[0]} was in training mode in {self._awake[awake[0]]} of {self._steps} steps"
            if awake
            else f"{len(self._must_rest)} frozen modules were in evaluation mode in all {self._steps} steps",
            evidence={"modules": len(self._must_rest), "steps": self._steps, "in_training_mode": awake[:_SHOWN]},
        )

    def _kinds(self) -> Check:
        """Weights and statistics are float32 whatever the precision of the passes, counters whole, all in one place."""
        tensors = {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}
        dtypes = Counter(str(each.dtype).removeprefix("torch.") for each in tensors.values())
        devices = Counter(str(each.device) for each in tensors.values())
        wide = [name for name, each in tensors.items() if each.is_floating_point() and each.dtype != torch.float32]
        device = next(iter(self._trained.values()), next(self._model.parameters())).device
        elsewhere = [name for name, each in tensors.items() if each.device != device]
        faults = [f"{name} is {tensors[name].dtype}" for name in wide]
        faults += [f"{name} is on {tensors[name].device}, not {device}" for name in elsewhere]
        return Check(
            name="dtype_and_device",
            stage=self._name,
            verdict="failed" if faults else "passed",
            summary=_first_of(faults)
            if faults
            else f"{len(tensors)} parameters and buffers are float32 or whole numbers, on {device}",
            evidence={"dtypes": dict(dtypes), "devices": dict(devices), "faults": faults[:_SHOWN]},
        )

    def _seeds(self) -> Check:
        wrong = self._reseeded
        return Check(
            name="seeds",
            stage=self._name,
            verdict="failed" if wrong else "passed",
            summary=f"something else seeded torch's generator in epoch {wrong[0]}, so draws repeat"
            if wrong
            else f"torch's generator had the seed of (seed, stage, epoch) in all {len(self._losses)} epochs",
            evidence={"reseeded": wrong, "first_losses": self._first_losses, "first_digest": self._first_digest},
        )

    def _gradients(self) -> Check:
        never = [name for name in self._trained if name not in self._with_gradient]
        unmoved = [name for name, each in self._trained.items() if tensor_digest(each) == self._trained_before[name]]
        still = [name for name in unmoved if name not in never]
        if self._not_finite:
            summary = f"the gradient of {self._not_finite[0]} was not finite in step {self._steps}"
        elif never:
            summary = f"{_first_of(never)} never got a gradient"
        elif self._only_zeros:
            summary = f"{_first_of(sorted(self._only_zeros))} got a gradient of zeros in every step"
        else:
            summary = f"{len(self._trained)} trainable tensors got finite gradients" + (
                f"; {len(still)} did not move at working precision" if still else ""
            )
        return Check(
            name="gradients",
            stage=self._name,
            verdict="failed" if self._not_finite or never else "warning" if self._only_zeros else "passed",
            summary=summary,
            evidence={
                "tensors": len(self._trained),
                "never": never[:_SHOWN],
                "only_zeros": sorted(self._only_zeros)[:_SHOWN],
                "not_finite": self._not_finite[:_SHOWN],
                "not_moved": still[:_SHOWN],
            },
        )

    def _loss_moved(self) -> Check:
        first, last = (self._losses[0], self._losses[-1]) if self._losses else (math.nan, math.nan)
        if len(self._losses) < 2:
            verdict, summary = "passed", f"one epoch, train loss {first:.4g}: nothing to compare"
        else:
            verdict = "passed" if last < first * (1 - _LOSS_MUST_FALL) else "warning"
            summary = f"train loss {first:.4g} in the first epoch, {last:.4g} in the last"
        evidence = {"first": first, "last": last} if self._losses else {}
        return Check(
            name="loss_movement",
            stage=self._name,
            verdict="passed" if verdict == "passed" else "warning",
            summary=summary,
            evidence=evidence,
        )


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 over dtype, shape and bytes."""
    plain = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{plain.dtype}{tuple(plain.shape)}".encode())
    digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _must_rest(model: ZooModel, stage: StagePlan) -> list[str]:
    names = [f"backbone.{name}" if name else "backbone" for name, _ in model.backbone.named_modules()]
    names += [f"head.{name}" if name else "head" for name, _ in model.head.named_modules()]
    return [name for name in names if model.rests(name, stage.trains, stage.settings.batch_norm)]


def _combined(digests: dict[str, str]) -> str:
    lines = [f"{name} {digest}" for name, digest in sorted(digests.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _first_of(names: list[str]) -> str:
    return names[0] + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
