"""Run as several processes by `torch.distributed.run`: real runs of zoo, whose outcomes each process writes as JSON.

python -m torch.distributed.run ... tests/ranks.py WORK DATA OUT
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

RANK = int(os.environ.get("RANK", "0"))
BACKBONE = "timm/test_vit"
COMMON: dict[str, Any] = {
    "backbone": BACKBONE,
    "weights": "random",
    "head": "linear",
    "tune": False,
    "report": False,
    "device": "cpu",
    "workers": 1,
}
SHARED: dict[str, Any] = {**COMMON, "recipe": "full", "set": ["all.patience=0"], "epochs": 4, "batch_size": 7}
"""Batches of 7, which two processes cut into 3 and 4, and a last one of another length."""
MIXED: dict[str, Any] = {**SHARED, "set": ["all.mixup=0.4", "all.cutmix=1.0", "all.sampling=balanced"], "epochs": 1}
PARTS: dict[str, Any] = {**SHARED, "shard_backbone": True}
FEATURES: dict[str, Any] = {**COMMON, "recipe": "head_only"}


def finetune(**arguments: Any) -> Any:
    """Run it, and keep the gradients of its first step -> (result, gradients by name)."""
    import torch
    import zoo
    from zoo.training.parts import put_together
    from zoo.training.watch import StageWatch

    gradients: dict[str, torch.Tensor] = {}
    original = StageWatch.gradients_ready

    def keep(self: StageWatch, losses: Any) -> float:
        if not gradients:
            model = self._stepping
            found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
            gradients.update({n: put_together(gradient).clone() for n, gradient in found.items()})
        return original(self, losses)

    StageWatch.gradients_ready = keep  # type: ignore[method-assign]
    try:
        return zoo.finetune(**arguments), gradients
    finally:
        StageWatch.gradients_ready = original  # type: ignore[method-assign]


def runs(data: Path, out: Path) -> dict[str, Any]:
    """A run whose stages are shared, and one that mixes images; with the gradients of their first step."""
    from safetensors.torch import save_file

    for name, arguments in (("shared", SHARED), ("mixed", MIXED)):
        _, gradients = finetune(**arguments, data=data, out=out / name)
        save_file({key: value.contiguous() for key, value in gradients.items()}, out / f"{name}-{RANK}.safetensors")
    return {}


def parts(data: Path, out: Path) -> dict[str, Any]:
    """The first of these runs, with the backbone in parts."""
    from safetensors.torch import save_file

    _, gradients = finetune(**PARTS, data=data, out=out / "parts")
    save_file({key: value.contiguous() for key, value in gradients.items()}, out / f"parts-{RANK}.safetensors")
    return {}


def features(data: Path, out: Path) -> dict[str, Any]:
    """Runs on features: what each process decoded and kept, in one cache and in a cache for each process."""
    import zoo.data.store
    from zoo.storage.feature_cache import FeatureCache

    decoded: list[str] = []
    kept: list[str] = []
    decode, keep = zoo.data.store.decode_closely, FeatureCache.keep

    def counted(content: bytes, *, name: str, **others: Any) -> Any:
        decoded.append(name)
        return decode(content, name=name, **others)

    def noted(self: FeatureCache, key: Any, images: str, block: Any) -> bool:
        kept.extend([images] * len(block))
        return keep(self, key, images, block)

    zoo.data.store.decode_closely, FeatureCache.keep = counted, noted  # type: ignore[method-assign]
    import zoo as library

    library.finetune(**FEATURES, data=out.parent / "data-1", out=out / "features")
    once = {"decoded": list(decoded), "kept": list(kept)}
    os.environ["ZOO_CACHE_DIR"] = str(out / f"cache-{RANK}")
    library.finetune(**FEATURES, data=out.parent / "data-1", out=out / "apart")
    return {**once, "kept_apart": kept[len(once["kept"]) :]}


def faults(data: Path, out: Path) -> dict[str, Any]:
    """Runs that have to be refused, and runs in which one process does something else."""
    import torch
    import zoo
    from torch import nn

    class Tampered(nn.Module):
        def __init__(self, inputs: int, classes: int) -> None:
            super().__init__()
            self.fc = nn.Linear(inputs, classes)
            self.register_buffer("shift", torch.zeros(1))

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            if RANK == 1 and self.training:
                with torch.no_grad():
                    self.fc.weight.add_(1e-3)
            return self.fc(features)  # type: ignore[no-any-return]

    said: dict[str, Any] = {}

    def attempt(name: str, **arguments: Any) -> None:
        try:
            zoo.finetune(**{**SHARED, "data": data, "epochs": 1, "out": out / name, **arguments})
        except zoo.ZooError as error:
            said[name] = [type(error).__name__, str(error)]

    other = out.parent / f"data-{RANK}"
    attempt("other_data", data=other)
    attempt("other_content", data=out.parent / f"changed-{RANK}")
    attempt("other_seed", seed=RANK)
    attempt("batch_norms", backbone="timm/test_resnet")
    attempt("tampered", head=lambda shape, classes: Tampered(shape.pooled, classes))
    from zoo.training import trainer

    original = trainer.train_step

    def careless(work: trainer.StageSetup, *arguments: Any) -> float:
        if RANK == 1:
            with torch.no_grad():
                next(work.model.backbone.parameters()).add_(1e-3)
        return original(work, *arguments)

    trainer.train_step = careless
    attempt("frozen", set=["all.train=last:1,head", "all.prefix=off"])
    return said


def killed(data: Path, out: Path) -> dict[str, Any]:
    """A run whose second process is killed in its third epoch."""
    import zoo
    from zoo.training.checkpoint import SECONDS_BETWEEN
    from zoo.training.watch import StageWatch

    SECONDS_BETWEEN["epoch"] = 0.0
    original, epochs = StageWatch.epoch_finished, []

    def dying(self: StageWatch, *arguments: Any) -> None:
        epochs.append(arguments)
        if RANK == 1 and len(epochs) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        original(self, *arguments)

    StageWatch.epoch_finished = dying  # type: ignore[method-assign]
    try:
        zoo.finetune(**SHARED, data=data, out=out / "killed")
    except zoo.ZooError as error:
        print(f"caught {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        raise
    return {}


def resumed(data: Path, out: Path) -> dict[str, Any]:
    """A copy of the run that was killed, resumed by as many processes."""
    import zoo

    zoo.resume(out / "again", report=False)
    return {}


def of_part(data: Path, out: Path) -> dict[str, Any]:
    """A run that one process began and that was stopped when a part of the images had been opened, resumed by all."""
    import zoo

    zoo.resume(out / "of-part", report=False)
    return {}


def digest(run: Path) -> str:
    """Of the classifier that a run saved."""
    return hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()


def main() -> None:
    """Do the works that the first argument names, with commas between them."""
    works, data, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    for work in works.split(","):
        found = globals()[work](data, out)
        (out / f"{work}-{RANK}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
