"""The candidates of a run: stage ends and blends, judged as they come, the best kept, all of it checkpointed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from zoo.evaluation.context import RunContext
from zoo.evaluation.copies import copies_among
from zoo.evaluation.metrics import Scores
from zoo.evaluation.out_of_memory import out_of_memory_as_error
from zoo.frozen.inputs import Inputs
from zoo.specs.plan import StagePlan
from zoo.specs.run_result import named_in_words
from zoo.training.blending import HeadEnd, blends, cpu_state
from zoo.training.choosing import STANDARD_ERRORS, Judged, image_weights, in_words, is_better, judge, optimism
from zoo.training.out_of_fold import JudgedInFolds
from zoo.training.stage_state import sub_state_dict

MayChange = Callable[[Sequence[StagePlan], str], bool]
"""Whether stages may change a tensor, by its full name, from their beginning to their end."""


Offered = Callable[[str, Tensor], None]
"""Takes a candidate's name in words, and its validation logits[N, classes]."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """The model at the end of a stage, or a blend of two such ends: one of those that the run chooses among."""

    stage: str
    """Name of the stage."""
    scores: Scores
    """Validation scores."""
    logits: Tensor
    """Validation logits[N, classes]; of a run in folds, those out of fold."""
    chunk: int
    """Images at a time when the logits were computed. With another number their last bits would differ."""
    share: float | None = None
    """For a blend, how much of the way from the end of a head stage it goes."""
    start: str | None = None
    """For a blend, the name of that head stage."""
    state: dict[str, Tensor] = field(default_factory=dict)
    """The model's state dict, on the CPU; empty before it is kept."""
    digests: dict[str, str] | None = None
    """For a kept blend, the digest of every tensor, recomputed from the two ends."""
    own: Tensor | None = None
    """Of a run in folds, logits[M, classes] of this very model on the first training images, which the saved classifier
    must give as well. Else None: those are `logits`."""

    @property
    def own_logits(self) -> Tensor:
        """Logits[M, classes] of this very model on the run's first images to judge, at least a chunk of them."""
        return self.logits if self.own is None else self.own


class Candidates:
    """Offered one after another, those that changed less first. A checkpoint holds the best and how all were judged."""

    def __init__(
        self, context: RunContext, may_change: MayChange, offered: Offered, out_of_fold: JudgedInFolds | None = None
    ) -> None:
        """Begin with none.

        Args:
            context: The run's.
            may_change: Tells what checkpoints and blends have to hold.
            offered: Called with every candidate.
            out_of_fold: What candidates are judged by in a run in folds, in place of validation images.
        """
        self._context = context
        self._out_of_fold = out_of_fold
        self._plan = context.plan
        self._model = context.model
        self._may_change = may_change
        self._offered = offered
        self._head_end: HeadEnd | None = None
        # What the last checkpoint holds: the stages of the best and of the head's end, and how many were judged.
        self._written: tuple[str | None, str | None, int] = (None, None, 0)
        self.best: Candidate | None = None
        """The model that the run would keep now."""
        self.judged: dict[str, Judged] = {}
        """Every candidate so far on the validation images, by its name in words. Of a stage that keeps its best epoch,
        that epoch alone."""

    def stage_ended(self, stage: StagePlan, end: Candidate, inputs: Inputs) -> list[dict[str, Any]]:
        """Judge a finished stage's blends and then its end, which the model holds before and after.

        Args:
            stage: The stage.
            end: Its end.
            inputs: Where validation rows come from.

        Returns:
            A record of each blend, as in `result.json`.
        """
        records = []
        with self._context.clock.measure("train"), out_of_memory_as_error(f"validation {end.stage}"):
            # Before the end: they changed less, and on a tie the earlier one stays.
            for blend in blends(self._model, stage, self._head_end):
                logits = inputs.val_logits(self._model)
                scores = self._context.scored(logits)
                found = Candidate(end.stage, scores, logits, inputs.chunk, blend.share, blend.start.stage)
                candidate = self._judged(found)
                if candidate is None:
                    continue
                metrics = {self._plan.judged_on: candidate.scores.to_dict()}
                records.append({"share": blend.share, "from": blend.start.stage, "metrics": metrics})
                if bool(torch.isfinite(logits).all()):
                    self._offer(candidate, blend.digests)
        if (judged := self._judged(end)) is not None:
            self._offer(judged)
        # It is a copy in main memory, and only blends need it.
        if stage.head_alone and any(later.settings.blend for later in self._plan.stages):
            self._head_end = self._head_end_of(end.stage, cpu_state(self._model))
        return records

    def would_blend_before(self, group: str) -> bool:
        """Whether a blend would change tensors of the groups before this one: they were trained meanwhile.

        An empty name stands for the head: all groups are before it.
        """
        if self._head_end is None:
            return False
        names = self._model.groups.names
        earlier = names[: names.index(group)] if group else names
        now = self._model.state_dict()
        return any(
            self._model.group_of(name) in earlier and not torch.equal(tensor, now[name].cpu())
            for name, tensor in self._head_end.state.items()
        )

    def selection(self, candidates: int) -> dict[str, Any]:
        """Return what was kept and how it was chosen, as in `result.json`; `candidates`: how many, epochs included."""
        assert self.best is not None, "no stage was finished"
        chosen = self._plan.keep == "best"
        return {
            "on": in_words(self._plan) if chosen else "the last stage",
            "standard_errors": STANDARD_ERRORS if chosen else None,
            "candidates": candidates,
            "kept": self.best.stage,
            "blend": self.best.share,
            "blend_from": self.best.start,
            "images": len(self._context.val),
            "optimism": self._optimism() if chosen else 0.0,
            "optimism_candidates": len(self.judged) if chosen else 1,
        }

    def _optimism(self) -> float | None:
        copies = copies_among(map(self._context.store.sha256_of, self._context.val))
        return optimism(list(self.judged.values()), self._plan.choose_by, copies=copies)

    def state_dict(self, finished: Sequence[StagePlan]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
        """Return the content of a checkpoint: plain JSON types, and tensors[...] by part and name.

        Parts that have not changed since `written` was called last are left out: their files stay. `finished`: the
        stages so far; what they cannot have changed is made again.
        """
        facts: dict[str, Any] = {"best": None, "judged": list(self.judged)}
        facts["head_end"] = self._head_end.stage if self._head_end else None
        parts = {}
        best_written, head_written, judged_written = self._written
        if self.best is not None:
            of_best = ("stage", "chunk", "share", "start", "digests")
            facts["best"] = {key: getattr(self.best, key) for key in of_best} | {"scores": self.best.scores.to_dict()}
            # All candidates of a stage are judged between two checkpoints, so its name tells whether the best is
            # another one.
            if best_written != self.best.stage:
                state = self._changed(finished, self.best.state)
                parts["best"] = {f"state.{name}": tensor for name, tensor in state.items()}
                parts["best"]["logits"] = self.best.logits
                parts["best"] |= {} if self.best.own is None else {"own": self.best.own}
        if self._head_end is not None and head_written != self._head_end.stage:
            parts["head_end"] = self._changed(finished, self._head_end.state)
        if judged_written != len(self.judged):
            right, loss = zip(*((each.right, each.loss) for each in self.judged.values()), strict=True)
            parts["judged"] = {"right": torch.stack(right), "loss": torch.stack(loss)}
        return facts, parts

    def written(self) -> None:
        """Note that what `state_dict` returned is on the disk."""
        stages = [each.stage if each else None for each in (self.best, self._head_end)]
        self._written = stages[0], stages[1], len(self.judged)

    def load_state_dict(self, facts: Mapping[str, Any], parts: Mapping[str, dict[str, Tensor]]) -> None:
        """Load what `state_dict` returned, while the model is as the run built it."""
        built = cpu_state(self._model)
        if facts["best"] is not None:
            of_best = {**facts["best"], "scores": Scores.from_file(facts["best"]["scores"])}
            state = {**built, **sub_state_dict("state.", parts["best"])}
            own = parts["best"].get("own")
            self.best = Candidate(**of_best, logits=parts["best"]["logits"], state=state, own=own)
            # All that a checkpoint of an older zoo knows; one of this zoo holds every candidate.
            self.judged = {self.best.stage: self._judge(self.best.logits)}
        if facts.get("head_end") is not None:
            self._head_end = self._head_end_of(facts["head_end"], {**built, **parts["head_end"]})
        if facts.get("judged"):
            judged = parts["judged"]
            weights = image_weights(self._context.val_targets, self._plan.choose_by)
            every = (Judged(*each, weights) for each in zip(judged["right"], judged["loss"], strict=True))
            self.judged = dict(zip(facts["judged"], every, strict=True))
        self.written()

    def _judged(self, candidate: Candidate) -> Candidate | None:
        """The candidate as it is judged: of a run in folds out of fold; None where some fold has no such candidate."""
        if self._plan.folds is None:
            return candidate
        name = named_in_words(candidate.stage, candidate.share, candidate.start)
        scores = self._out_of_fold.scores(name) if self._out_of_fold is not None else None
        if self._out_of_fold is None or scores is None:
            return None
        # As many as the check of the saved file computes; a clone, so that the memory of the others is free.
        own = candidate.logits[: candidate.chunk].clone()
        return replace(candidate, scores=scores, logits=self._out_of_fold.logits[name], own=own)

    def _offer(self, candidate: Candidate, digests: Callable[[], dict[str, str]] | None = None) -> None:
        """Keep the candidate, which the model holds, if it is better than the best so far."""
        judged = self._judge(candidate.logits)
        name = named_in_words(candidate.stage, candidate.share, candidate.start)
        self.judged[name] = judged
        self._offered(name, candidate.logits)
        best = self.best
        choose_by = self._plan.choose_by
        if best is None or self._plan.keep == "last" or is_better(judged, self._judge(best.logits), choose_by):
            self.best = replace(candidate, state=cpu_state(self._model), digests=digests() if digests else None)

    def _judge(self, logits: Tensor) -> Judged:
        targets = self._context.val_targets
        return judge(logits, targets, image_weights(targets, self._plan.choose_by))

    def _head_end_of(self, name: str, state: Mapping[str, Tensor]) -> HeadEnd:
        """Return of the state at the end of a head stage what later stages may change."""
        names = [stage.settings.name for stage in self._plan.stages]
        return HeadEnd(name, self._changed(self._plan.stages[names.index(name) + 1 :], state))

    def _changed(self, stages: Sequence[StagePlan], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in state.items() if self._may_change(stages, name)}
