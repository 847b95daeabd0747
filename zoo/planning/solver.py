"""Whether a solver fits the head in a stage, or gradient steps: decided once, with the reason.

Which knobs belong to gradient steps is in `zoo.specs.solver`; the solver itself is `zoo.probes.logistic`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from zoo.frozen.decision import CacheDecision
from zoo.model.model import ZooModel
from zoo.probes.layer_penalty import FACTORS
from zoo.specs.recipe import RecipeSpec, Stage
from zoo.specs.selectors import Selection
from zoo.specs.solver import GRADIENT_KNOBS, SERVE_OTHERS, FittedBy
from zoo.text import size

MOST_BYTES = 1 << 29
"""Features in float32 that `auto` gives to the solver. Its float64 copies take about eight times as much memory."""
MOST_WORK = 2e9
"""Images times columns times classes that `auto` gives to the solver: about three minutes on two cores. Beyond that,
gradient steps are quicker, as cross-validation goes over all images some thousand times."""

_OF_EPOCHS = (*GRADIENT_KNOBS, "abandon")
"""What needs epochs. `abandon` asks for them only where it is on: off, it is about no stage at all."""
_SOLVED = "logistic regression, its strength by cross-validation"
_OF_GROUPS = ", and by how much more the groups' means are held back"
_DROPOUT = "; the penalty stands in for dropout, which acts in stages of gradient steps"


@dataclass(frozen=True, slots=True)
class SolverChoice:
    """What fits the head."""

    solver: FittedBy
    why: str = ""
    """The reason, where the recipe left it open; a part of a sentence."""


def choose_solver(
    stage: Stage, selection: Selection, outline: ZooModel, features: CacheDecision, asked: str
) -> SolverChoice:
    """Decide what fits the head of a stage.

    Args:
        stage: Its settings, which were not refused.
        selection: What its selectors mean for this model.
        outline: The model on the meta device.
        features: What is cached of the features of all images and views.
        asked: The option that asks for gradient steps; empty where none does.
    """
    if outline.closed_form:
        # A closed form has neither; here `gradient` only says that no solver is at work.
        return SolverChoice("gradient")
    if stage.solver == "gradient":
        return SolverChoice("gradient", f"gradient steps, because {asked} asks for them" if asked else "")
    # Where a recipe insists on `lbfgs` there is nothing to weigh: `solver_faults` has refused what cannot be.
    if stage.solver == "auto" and (reason := _why_not(stage, selection, outline, features)):
        return SolverChoice("gradient", f"gradient steps, because {reason}")
    groups = _OF_GROUPS if outline.shape.layers else ""
    return SolverChoice("lbfgs", _SOLVED + groups + (_DROPOUT if _has_dropout(outline.head) else ""))


def solver_faults(stage: Stage, selection: Selection, outline: ZooModel, path: str) -> list[str]:
    """What is wrong with a stage that is to be fitted by a solver, one entry each."""
    if stage.solver != "lbfgs":
        return []
    if reason := _cannot(selection, outline):
        return [f"{path}.solver: 'lbfgs' cannot be, {reason}; {_remedy(selection, outline)}"]
    return [
        f"{path}.{key}: would do nothing, solver 'lbfgs' takes no gradient steps; leave it out, or set solver to "
        "'gradient'"
        for key in _gradient_knobs(stage)
    ]


def asking_options(
    before: RecipeSpec, after: RecipeSpec, assignments: Sequence[str], *, epochs: int | None
) -> dict[str, str]:
    """Stage -> the option that turned its solver from `auto` into gradient steps.

    Args:
        before: The recipe as it is registered.
        after: The same with the options applied.
        assignments: Those of `--set`.
        epochs: That of `--epochs`; None where it was not given.
    """
    targets = [assignment.partition("=")[0].replace(" ", "") for assignment in assignments]
    found = {}
    for old, new in zip(before.stages, after.stages, strict=True):
        if (old.solver, new.solver) == ("auto", "gradient"):
            knobs = [f"{old.name}.{key}" for key in (*GRADIENT_KNOBS, "solver")]
            option = next((f"--set {target}" for target in targets if target in knobs), "")
            found[new.name] = option or ("--batch-size" if epochs is None else "--epochs")
    return found


def _why_not(stage: Stage, selection: Selection, outline: ZooModel, features: CacheDecision) -> str:
    if reason := _cannot(selection, outline):
        return reason
    if knobs := _gradient_knobs(stage):
        return f"the recipe sets {knobs[0]}"
    if features.inputs != "features":
        return features.why
    if features.bytes > MOST_BYTES:
        return f"the features are {size(features.bytes)}, and the solver takes up to {size(MOST_BYTES)}"
    # These bytes are those of float32: divided by four they are images times columns.
    times = len(FACTORS) if outline.shape.layers else 1
    if features.bytes // 4 * len(outline.classes) * times > MOST_WORK:
        return (
            f"on {size(features.bytes)} of features and {len(outline.classes):,} classes the solver would take longer"
        )
    return ""


def _cannot(selection: Selection, outline: ZooModel) -> str:
    if selection.backbone:
        return "this stage trains the backbone"
    if outline.closed_form:
        return "this head is fitted in closed form"
    if outline.own_loss:
        return "this head brings its own loss"
    if outline.linear_layer is None:
        return "this head is more than one linear layer"
    return "" if outline.linear_layer.bias is not None else "the linear layer of this head has no bias"


def _remedy(selection: Selection, outline: ZooModel) -> str:
    if selection.backbone:
        return "set it to 'gradient', or train the head alone"
    return "leave it out" if outline.closed_form else "set it to 'auto', or take --head linear"


def _gradient_knobs(stage: Stage) -> list[str]:
    """Knobs of gradient steps that a recipe set and that mean nothing else."""
    # Under `lbfgs`, `Stage` fills in epochs and lr that a recipe leaves out, so they would look as if they were set.
    allowed = {"auto": SERVE_OTHERS, "lbfgs": ("epochs", "lr"), "gradient": _OF_EPOCHS}[stage.solver]
    fields: Mapping[str, object] = {key: Stage.model_fields[key].default for key in _OF_EPOCHS}
    return [key for key in _OF_EPOCHS if key not in allowed and getattr(stage, key) != fields[key]]


def _has_dropout(head: nn.Module) -> bool:
    # What Dropout, Dropout1d to 3d and the alpha kinds have in common; torch has no public name for it.
    return any(isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0 for module in head.modules())
