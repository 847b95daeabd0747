"""The watch over one stage: whether frozen tensors stayed frozen and the others were trained, as checks of the proof.

The watch relies on the plan alone, not on `requires_grad` or anything else that freezing did: a fault of the freezing
must show here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from zoo.errors import CheckFailed
from zoo.model.model import ZooModel
from zoo.probes.logistic import NEXT_IF_NOT_FINITE
from zoo.specs.plan import StagePlan
from zoo.specs.run_result import Check
from zoo.storage.tensors import combined_digest, tensor_digest, tensors_digest
from zoo.training.divided import BackboneInParts, own_part, put_together
from zoo.training.proof import check_loss_movement
from zoo.training.step_numbers import Numbers, StepNumbers, steps_between_readings

FIRST_STEPS = 3
"""Steps at the beginning of a stage whose losses and weights the proof records, for `zoo verify` to repeat."""
_SHOWN = 10
"""Names that the evidence lists."""
_NOTHING_TRAINED = f"before the stage trained anything. It was stopped.\n{NEXT_IF_NOT_FINITE}"


class NotFinite(CheckFailed):
    """The loss, a gradient or a feature is not finite; the stage was stopped before anything used it."""

    code = "not_finite"
    losses_before: Sequence[float] = ()
    """Losses of the steps before it that became known together with it."""


class StageWatch:
    """Observes one stage. The training loop calls its methods as the stage goes on; `checks` has the verdicts."""

    def __init__(self, model: ZooModel, stage: StagePlan, *, read_every: int | None = None) -> None:
        """Record what the model is: to be made after freezing and before the first step.

        After every `read_every` steps their losses are read; by default as fits the model's device.
        """
        self._model = model
        self._stage = stage
        self._name = stage.settings.name
        self._trained = {name: parameter for name, parameter in model.named_parameters() if self._trains(name)}
        self._eval_modules = _eval_modules(model, stage)
        self._frozen_before = self._frozen_digests()
        self._trained_before = _digests(self._trained)
        self.names = frozenset(self._trained) | {name for name, _ in model.named_buffers() if self._trains(name)}
        """Full names of the parameters and buffers that may change."""
        self._highest_rate = max(stage.rates.values(), default=0.0)
        self._in_training_mode: Counter[str] = Counter()
        self._steps = 0
        self._numbers = StepNumbers(read_every or steps_between_readings(next(model.parameters()).device))
        self._with_gradient: set[str] = set()
        self._zero_gradient: set[str] = set()
        self._not_finite: list[str] = []
        self._faulty_step = 0
        self._losses: list[float] = []
        self._first_losses: list[str] = []
        self._first_digest = ""
        self._reseeded_epochs: list[int] = []
        self._optimizer: Check | None = None
        self._finite: Check | None = None
        self._closed_form: Check | None = None
        self._given_up = False
        self._held_by: Optimizer | None = None
        self._stepping, self._stepped = model, self._trained  # others where processes hold parts
        self._parts: BackboneInParts | None = None
        self._of_parts: Check | None = None

    def rate_found(self, rate: float) -> None:
        """Note the rate that a search chose in place of `auto`."""
        self._highest_rate = rate

    def steps_in_parts(self, parts: BackboneInParts) -> None:
        """Note that steps are made on another model than the one watched: one whose layers processes hold in parts."""
        self._parts, self._stepping = parts, parts.model
        self._numbers = StepNumbers(1, of_all=parts.sum_of)  # read at once: all stop at the same step
        self._stepped = {name: each for name, each in parts.model.named_parameters() if name in self._trained}

    def parts_ended(self, check: Check) -> None:
        """Take the check on what was put together of the parts."""
        self._of_parts = check

    def optimizer_made(self, optimizer: Optimizer) -> None:
        """Compare the optimizer's parameters with those that the plan trains."""
        self._held_by = optimizer
        names_by_id = {id(parameter): name for name, parameter in self._stepping.named_parameters()}
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        held = Counter(names_by_id.get(id(parameter), "(not of the model)") for parameter in parameters)
        twice = sorted(name for name, count in held.items() if count > 1)
        forgotten = sorted(set(self._trained) - set(held))
        extra = sorted(set(held) - set(self._trained))
        faults = {"twice": twice, "forgotten": forgotten, "not to be trained": extra}
        wrong = {fault: names for fault, names in faults.items() if names}
        faulty = "; ".join(f"{fault}: {names[0]}" for fault, names in wrong.items())
        self._optimizer = Check(
            name="optimizer_groups",
            stage=self._name,
            verdict="failed" if wrong else "passed",
            summary=faulty or f"the optimizer holds exactly the {len(self._trained)} trainable tensors, each once",
            evidence={fault: names[:_SHOWN] for fault, names in wrong.items()} | {"tensors": len(held)},
        )

    def fitted(self, first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
        """Compare two states of a closed-form head, tensors of any shape by name, fitted to the same features.

        A closed form has one answer, so both must be the same bits.
        """
        differing = [name for name in second if not torch.equal(first[name], second[name])]
        wrong = differing + _not_finite(second)
        if wrong:
            summary = f"{_first_of(wrong)} is not finite, or came out differently when fitted again"
        else:
            summary = (
                f"fitted twice to the same features, the head's {len(second)} tensors are finite and bit-identical"
            )
        self._closed_form = Check(
            name="closed_form",
            stage=self._name,
            verdict="failed" if wrong else "passed",
            summary=summary,
            evidence={
                "differing": wrong[:_SHOWN],
                "tensors": len(second),
                "digest": tensors_digest(second),
            },
        )

    def solved(self, check: Check) -> None:
        """Take the check on a head that a solver fitted; it stands in for those of gradient steps."""
        self._closed_form = check

    def step_begins(self) -> None:
        """Count a step, and note modules that must be in evaluation mode and are not."""
        self._steps += 1
        for name in self._eval_modules:
            if self._stepping.get_submodule(name).training:
                self._in_training_mode[name] += 1

    @property
    def found(self) -> Tensor | None:
        """What the optimizer needs to change nothing once a step is not finite, as `StepNumbers.found`."""
        return self._numbers.found

    def gradients_ready(self, losses: Sequence[Tensor]) -> list[float]:
        """Inspect the gradients of a step before the optimizer uses them -> losses that became known, as of `read`.

        Its loss is the sum of losses[K], K scalars. On a GPU it becomes known with that of many steps, or by `read`.
        Raises NotFinite.
        """
        gradients = {name: own_part(each.grad) for name, each in self._stepped.items() if each.grad is not None}
        self._zero_gradient |= gradients.keys() - self._with_gradient  # until it is known to be more
        self._with_gradient.update(gradients)
        now, asked = self._steps <= FIRST_STEPS, frozenset(self._zero_gradient)  # of the first, weights are read, too
        return self._known(self._numbers.add(self._steps, losses, gradients, asked=asked, now=now))

    def read(self) -> list[float]:
        """Wait for the device and return the losses of the steps that were not known, in their order.

        To be called before anything is made of the weights. Raises NotFinite for the first of these steps whose loss or
        gradients are not finite; the weights are those before it.
        """
        return self._known(self._numbers.read())

    def _known(self, numbers: Numbers) -> list[float]:
        self._zero_gradient -= numbers.moved
        if numbers.fault is None:
            return numbers.losses
        self._not_finite, self._faulty_step = list(numbers.not_finite) or ["loss"], numbers.fault
        of = f"the gradient of {numbers.not_finite[0]}" if numbers.not_finite else "the loss"
        where, rate = f"Stage {self._name!r}, step {numbers.fault}", self._highest_rate
        why = f"at a learning rate of {rate:g}. The stage was stopped.\nNext: lower it, for example --set "
        why = _NOTHING_TRAINED if numbers.fault == 1 else f"{why}{self._name}.lr={rate / 10:g}."
        error = NotFinite(f"{where}: {of} is not finite (loss {numbers.fault_loss:.4g}), {why}")
        error.losses_before = numbers.losses
        raise error

    def stepped(self, loss: float) -> None:
        """Record the loss and weights after each of the first steps, for `zoo verify` to compare."""
        if len(self._first_losses) < FIRST_STEPS:
            self._first_losses.append(loss.hex())  # every bit of it, where decimals would round
            self._first_digest = tensors_digest(self._trained)

    def finished(self, val_logits: Tensor) -> None:
        """Check that trained tensors and the validation logits[N, classes] are finite at the end of the stage.

        Gradients do not show what the optimizer's last step did.
        """
        wrong = _not_finite(self._trained)
        if not bool(torch.isfinite(val_logits).all()):
            wrong.append("the validation logits")
        self._finite = Check(
            name="finite_result",
            stage=self._name,
            verdict="failed" if wrong else "passed",
            summary=f"not finite after the last step: {_first_of(wrong)}"
            if wrong
            else "trained tensors and validation logits are finite",
            evidence={"not_finite": wrong[:_SHOWN]},
        )

    def given_up(self) -> None:
        """Note that the stage ended early and its model is not used. It may not even have made a step."""
        self._given_up = True

    @property
    def usable(self) -> bool:
        """Whether the stage ended, with finite weights and logits."""
        return self._finite is not None and self._finite.verdict == "passed"

    def epoch_finished(self, train_loss: float, seeded: bool) -> None:
        """Note the mean training loss of an epoch.

        `seeded`: whether torch's generator still has the seed that it got at the epoch's beginning. Code that seeds it
        during an epoch, such as a head's, would make later draws repeat.
        """
        self._losses.append(train_loss)
        if not seeded:
            self._reseeded_epochs.append(len(self._losses))

    def state_dict(self) -> dict[str, Any]:
        """Return all observations so far, in plain JSON types, for a checkpoint."""
        return {
            "frozen_before": self._frozen_before,
            "trained_before": self._trained_before,
            "awake": dict(self._in_training_mode),
            "steps": self._steps,
            "with_gradient": sorted(self._with_gradient),
            "only_zeros": sorted(self._zero_gradient),
            "losses": self._losses,
            "first_losses": self._first_losses,
            "first_digest": self._first_digest,
            "reseeded": self._reseeded_epochs,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned: a resumed stage is compared with its beginning, not with the checkpoint."""
        self._frozen_before = dict(state["frozen_before"])
        self._trained_before = dict(state["trained_before"])
        self._in_training_mode = Counter(state["awake"])
        self._steps = state["steps"]
        self._with_gradient = set(state["with_gradient"])
        self._zero_gradient = set(state["only_zeros"])
        self._losses = list(state["losses"])
        self._first_losses = list(state["first_losses"])
        self._first_digest = state["first_digest"]
        self._reseeded_epochs = list(state["reseeded"])

    def holds(self) -> dict[str, str]:
        """Return digests of what this process holds, for a comparison with other processes of the same run."""
        tensors = {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}
        trained = {name: tensor for name, tensor in tensors.items() if name in self.names}
        found = {"frozen tensors": combined_digest(self._frozen_digests()), "trained tensors": tensors_digest(trained)}
        if self._held_by is not None:
            parameters = [each for group in self._held_by.param_groups for each in group["params"]]
            held = {f"{number:06d}": each for number, each in enumerate(parameters)}
            for number, each in enumerate(parameters):
                state = self._held_by.state.get(each, {})
                held |= {f"{number:06d} {key}": value for key, value in state.items() if isinstance(value, Tensor)}
            digests = {name: tensor_digest(put_together(each)) for name, each in held.items()}
            found["the optimizer's parameters and state"] = combined_digest(digests)
        return found

    def checks(self) -> list[Check]:
        """Return the checks on this stage."""
        checks = [self._frozen_unchanged(), self._frozen_in_evaluation_mode(), self._dtype_and_device()]
        if self._closed_form is not None:
            # Fitted in one pass: there are no gradients, no second epoch and no draws to check.
            checks.append(self._closed_form)
        elif self._steps or not self._given_up:  # one given up before its first step has none
            checks += [self._gradients(), check_loss_movement(self._losses, stage=self._name), self._seeds()]
        others = self._optimizer, self._of_parts, self._finite
        return [*checks, *(check for check in others if check is not None)]

    def _frozen_digests(self) -> dict[str, str]:
        tensors = {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}
        return _digests({name: tensor for name, tensor in tensors.items() if not self._trains(name)})

    def _trains(self, name: str) -> bool:
        return self._model.trains(name, self._stage.trains, self._stage.tensors, self._stage.batch_norm)

    def _frozen_unchanged(self) -> Check:
        after = self._frozen_digests()
        changed = [name for name, digest in self._frozen_before.items() if after.get(name) != digest]  # or missing
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
                "digest_before": combined_digest(self._frozen_before),
                "digest_after": combined_digest(after),
            },
        )

    def _frozen_in_evaluation_mode(self) -> Check:
        wrong = sorted(self._in_training_mode)
        return Check(
            name="frozen_in_evaluation_mode",
            stage=self._name,
            verdict="failed" if wrong else "passed",
            summary=f"{wrong[0]} was in training mode in {self._in_training_mode[wrong[0]]} of {self._steps} steps"
            if wrong
            else f"{len(self._eval_modules)} frozen modules were in evaluation mode in all {self._steps} steps",
            evidence={"modules": len(self._eval_modules), "steps": self._steps, "in_training_mode": wrong[:_SHOWN]},
        )

    def _dtype_and_device(self) -> Check:
        """Check that floating-point tensors are float32, whatever precision computes with them, and on one device."""
        tensors = {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}
        dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())
        devices = Counter(str(tensor.device) for tensor in tensors.values())
        others = [name for name, each in tensors.items() if each.is_floating_point() and each.dtype != torch.float32]
        device = next(iter(self._trained.values()), next(self._model.parameters())).device
        elsewhere = [name for name, tensor in tensors.items() if tensor.device != device]
        faults = [f"{name} is {tensors[name].dtype}" for name in others]
        faults += [f"{name} is on {tensors[name].device}, not {device}" for name in elsewhere]
        return Check(
            name="dtype_and_device",
            stage=self._name,
            verdict="failed" if faults else "passed",
            summary=_first_of(faults)
            if faults
            else f"{len(tensors)} parameters and buffers are float32 or integers, on {device}",
            evidence={"dtypes": dict(dtypes), "devices": dict(devices), "faults": faults[:_SHOWN]},
        )

    def _seeds(self) -> Check:
        wrong = self._reseeded_epochs
        return Check(
            name="seeds",
            stage=self._name,
            verdict="failed" if wrong else "passed",
            summary=f"something else seeded torch's generator in epoch {wrong[0]}, so draws repeat"
            if wrong
            else f"torch's generator was seeded from (seed, stage, epoch) in all {len(self._losses)} epochs",
            evidence={"reseeded": wrong, "first_losses": self._first_losses, "first_digest": self._first_digest},
        )

    def _gradients(self) -> Check:
        never = [name for name in self._trained if name not in self._with_gradient]  # a fault, unlike zeros
        after = _digests(self._trained)
        unmoved = [name for name in after if after[name] == self._trained_before[name] and name not in never]
        if self._not_finite:
            summary = f"the gradient of {self._not_finite[0]} was not finite in step {self._faulty_step}"
        elif never:
            summary = f"{_first_of(never)} never got a gradient"
        elif self._zero_gradient:
            summary = f"{_first_of(sorted(self._zero_gradient))} got a gradient of only zeros in every step"
        else:
            summary = f"{len(self._trained)} trainable tensors got finite gradients" + (
                f"; {len(unmoved)} did not change at float32 precision" if unmoved else ""
            )
        return Check(
            name="gradients",
            stage=self._name,
            verdict="failed" if self._not_finite or never else "warning" if self._zero_gradient else "passed",
            summary=summary,
            evidence={
                "tensors": len(self._trained),
                "never": never[:_SHOWN],
                "only_zeros": sorted(self._zero_gradient)[:_SHOWN],
                "not_finite": self._not_finite[:_SHOWN],
                "not_moved": unmoved[:_SHOWN],
            },
        )


def _eval_modules(model: ZooModel, stage: StagePlan) -> list[str]:
    """Return the names of the modules that must be in evaluation mode while the stage trains."""
    names = [f"backbone.{name}" if name else "backbone" for name, _ in model.backbone.named_modules()]
    names += [f"head.{name}" if name else "head" for name, _ in model.head.named_modules()]
    return [name for name in names if model.stays_in_eval(name, stage.trains, stage.batch_norm)]


def _digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: tensor_digest(tensor) for name, tensor in tensors.items()}


def _not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    return [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]


def _first_of(names: list[str]) -> str:
    return names[0] + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
