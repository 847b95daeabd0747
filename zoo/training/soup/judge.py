"""Judge weights on the images that the runs were validated on: one model, into which one state after another goes."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.data.dataset import Dataset, ImageFile
from zoo.data.file_index import FileIndex
from zoo.data.store import ImageStore
from zoo.evaluation import inference
from zoo.evaluation.metrics import Scores, score
from zoo.evaluation.out_of_memory import MicroBatches, OutOfMemoryRetry
from zoo.events import Progress, Report
from zoo.model.model import ZooModel
from zoo.specs.data import Split
from zoo.specs.plan import Compute
from zoo.storage.tensors import same_bits
from zoo.training.run_folder import EvaluatedSplit
from zoo.weights.state import load_weights


@dataclass(kw_only=True)
class Judge:
    """Computes logits of a split with any weights, as the runs did: in padded chunks of their size."""

    model: ZooModel
    """On the device; its weights are those that were judged last."""
    dataset: Dataset
    store: ImageStore
    chunk: int
    """Images at a time."""
    report: Report
    balanced: bool = False
    """Whether models are compared as if every class had equally many images."""
    retries: list[OutOfMemoryRetry] = field(default_factory=list)
    """The retries after running out of memory, in order."""

    def use(self, state: Mapping[str, Tensor], compute: Compute) -> None:
        """Put tensors of any shape, by name, into the model, which computes in this way from now on."""
        # Not `load_state_dict`: torchvision's MNASNets need version metadata that a plain dictionary does not have.
        load_weights(self.model, state, architecture=self.model.name)
        self.model.compute_as(compute).eval()

    def logits(self, split: Split, task: str, *, model: ZooModel | None = None, most: int | None = None) -> Tensor:
        """Return logits[N, classes] of the split's images, on the CPU.

        Args:
            split: `val` or `test`.
            task: What progress is reported as.
            model: Another model to compute with.
            most: Compute only so many images, the first.
        """
        files = self.dataset.splits[split][:most]
        # What did not fit once would not fit again, and each try costs a pass that fails.
        smallest = min([self.chunk, *(retry.size for retry in self.retries)])
        return inference.logits_of_files(
            model or self.model,
            self.store,
            files,
            micro_batches=MicroBatches(smallest, work=task, report=self.report, retries=self.retries),
            progress=lambda done: self.report(Progress(task=task, done=done, total=len(files))),
        )

    def scores(self, file: Path, compute: Compute, task: str) -> Scores:
        """Return the validation scores of the weights in a safetensors file."""
        self.use(load_file(file), compute)
        return self.scored(self.logits("val", task), self.targets("val"))

    def scored(self, logits: Tensor, targets: Tensor) -> Scores:
        """Score logits[N, classes] against indices targets[N], with the numbers by which models are compared."""
        return score(logits, targets, balanced=self.balanced)

    def targets(self, split: Split) -> Tensor:
        """Return the class indices of the split's N images, int64[N]."""
        return inference.targets_of(self.dataset.splits[split])

    def evaluated(self, split: Split, logits: Tensor) -> EvaluatedSplit:
        """Return a split with its logits[N, classes]."""
        files = self.dataset.splits[split]
        # The test images are judged once, so the store does not examine them. The runs have, mostly on this machine.
        known = FileIndex().digests([file for file in files if not self.store.is_examined(file)])

        def digest_of(file: ImageFile) -> str:
            return self.store.sha256_of(file) if self.store.is_examined(file) else known.get(file.relative, "")

        return EvaluatedSplit.of(split, files, logits, digest_of)

    def batch_norms_apart(self, files: Sequence[Path]) -> int:
        """How many of the model's batch norms have other running statistics in one of the files than in the first."""
        norms = [name for name, module in self.model.named_modules() if isinstance(module, _BatchNorm)]
        statistics = ("running_mean", "running_var")
        with contextlib.ExitStack() as stack:
            first, *others = (stack.enter_context(safe_open(file, framework="pt")) for file in files)
            # A batch norm may have no running statistics, and then has none in the file.
            held = set(first.keys())
            return sum(
                any(
                    not same_bits(first.get_tensor(f"{norm}.{each}"), other.get_tensor(f"{norm}.{each}"))
                    for other in others
                    for each in statistics
                    if f"{norm}.{each}" in held
                )
                for norm in norms
            )
