"""Run as several processes by `torch.distributed.run`: real runs of zoo, whose outcomes each process writes as JSON.

python -m torch.distributed.run ... tests/ranks.py WORK DATA OUT
"""

from __future__ import annotations

import contextlib
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
PARTS: dict[str, dict[str, Any]] = {
    "parts": SHARED,
    "staged": {**COMMON, "recipe": "staged", "epochs": 3, "batch_size": 7, "set": ["last.clip=0.1"]},
    "single": {**SHARED, "batch_size": 1, "epochs": 1},
    "convolutions": {
        **SHARED,
        "backbone": "timm/test_resnet",
        "set": ["all.batch_norm=frozen", "all.optimizer=sgd", "all.lr=0.01", "all.keep_epoch=best"],
        "epochs": 2,
    },
}
"""Attention and convolutions; outputs before a cut; gradients that are clipped; one image a batch for two processes."""
FEATURES: dict[str, Any] = {**COMMON, "recipe": "head_only"}


def finetune(**arguments: Any) -> Any:
    """Run it, and keep the gradients of its first step -> (result, gradients by name)."""
    import torch
    import zoo
    from zoo.training.divided import put_together
    from zoo.training.stage_watch import StageWatch

    gradients: dict[str, torch.Tensor] = {}
    original = StageWatch.gradients_ready

    def keep(self: StageWatch, losses: Any) -> list[float]:
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


def bytes_of_tensors() -> int:
    """Of all tensors of numbers with fractions that this process has, but images; each memory counts once."""
    import gc

    import torch

    gc.collect()
    found = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    plain = [each for each in found if not hasattr(each, "full_tensor") and each.is_floating_point()]
    plain = [each for each in plain if each.shape[-2:] != (160, 160)]
    return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in plain}.values())


def parts(data: Path, out: Path) -> dict[str, Any]:
    """Runs whose backbones are held in parts, with the gradients of their first step and what processes hold later."""
    from safetensors.torch import save_file
    from zoo.training.stage_watch import StageWatch

    in_parts = {"shard_backbone": True} if "WORLD_SIZE" in os.environ else {}
    held: dict[str, int] = {}
    begins = StageWatch.step_begins
    for name, arguments in PARTS.items():
        steps: list[int] = []

        def counted(self: StageWatch, name: str = name, steps: list[int] = steps) -> None:
            if len(steps) == 5:  # gradients and the optimizer's state are there, and no weights are being digested
                held[name] = bytes_of_tensors()
            steps.append(1)
            begins(self)

        StageWatch.step_begins = counted  # type: ignore[method-assign]
        try:
            _, gradients = finetune(**arguments, **in_parts, data=data, out=out / name)
        finally:
            StageWatch.step_begins = begins  # type: ignore[method-assign]
        save_file({key: value.contiguous() for key, value in gradients.items()}, out / f"{name}-{RANK}.safetensors")
    return {"held": held}


def parts_stopped(data: Path, out: Path) -> dict[str, Any]:
    """The first of them again, stopped in the middle of its third epoch, and a copy of it that goes on."""
    import shutil

    import zoo
    from zoo.distributed.group import current
    from zoo.training.checkpoint import SECONDS_BETWEEN
    from zoo.training.stage_watch import StageWatch

    usual, begins = SECONDS_BETWEEN["step"], StageWatch.step_begins
    SECONDS_BETWEEN["step"] = 0.0
    steps: list[int] = []

    def stopping(self: StageWatch) -> None:
        steps.append(1)
        if len(steps) == 9:
            # All are done before the first of them stops: else one that is late would take that one for lost.
            current().pulse.tell("done")
            current().meet()
            raise KeyboardInterrupt
        begins(self)

    StageWatch.step_begins = stopping  # type: ignore[method-assign]
    with contextlib.suppress(KeyboardInterrupt):
        zoo.finetune(**PARTS["parts"], shard_backbone=True, data=data, out=out / "stopped")
    StageWatch.step_begins, SECONDS_BETWEEN["step"] = begins, usual  # type: ignore[method-assign]
    if RANK == 0:
        shutil.copytree(out / "stopped", out / "again")
        (out / "copied").touch()
    while not (out / "copied").exists():
        pass
    zoo.resume(out / "again", report=False)
    return {}


def parts_faults(data: Path, out: Path) -> dict[str, Any]:
    """Runs in parts that have to be refused, or that fail, and runs in which one process does something else."""
    import torch
    import zoo
    from zoo.training import divided, trainer

    said: dict[str, Any] = {}

    def attempt(name: str, **arguments: Any) -> None:
        asked = {**SHARED, "data": data, "epochs": 1, "out": out / name, "shard_backbone": True, **arguments}
        try:
            zoo.finetune(**asked)
            said[name] = ["passed", ""]
        except zoo.ZooError as error:
            said[name] = [type(error).__name__, str(error)]

    attempt("ema", set=["all.ema=0.9"])
    attempt("ema_mended", set=["all.ema=0"])
    attempt("l2_sp", set=["all.l2_sp=0.1"])
    attempt("head_only", recipe="head_only", set=[])
    attempt("folds", folds=2, every_stage=True)
    attempt("adapters", set=["all.train=adapters,head"])
    attempt("not_finite", set=["all.lr=1e30"], epochs=3)
    whole, step = divided.put_together, trainer.train_step

    def shifted(tensor: torch.Tensor) -> torch.Tensor:
        return whole(tensor) + (1e-3 if RANK == 1 and divided.is_part(tensor) else 0)

    divided.put_together = shifted
    attempt("shifted")
    divided.put_together = whole

    def careless(work: trainer.StageSetup, *arguments: Any) -> list[float]:
        if RANK == 1:
            with torch.no_grad():
                next(work.model.backbone.parameters()).add_(1e-3)
        return step(work, *arguments)

    trainer.train_step = careless
    attempt("frozen_in_parts", set=["all.train=last:1,head", "all.prefix=off"])
    trainer.train_step = step
    return said


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
    # They would wait in different places: one chooses a backbone, and the other one has it.
    attempt("other_backbone", backbone=("auto", BACKBONE)[RANK])
    attempt("spoilt", data=out.parent / "spoilt")
    attempt("batch_norms", backbone="timm/test_resnet")
    attempt("tampered", head=lambda shape, classes: Tampered(shape.pooled, classes))
    from zoo.training import trainer

    original = trainer.train_step

    def careless(work: trainer.StageSetup, *arguments: Any) -> list[float]:
        if RANK == 1:
            with torch.no_grad():
                next(work.model.backbone.parameters()).add_(1e-3)
        return original(work, *arguments)

    trainer.train_step = careless
    attempt("frozen", set=["all.train=last:1,head", "all.prefix=off"])
    return said


def room(data: Path, out: Path) -> dict[str, Any]:
    """A run whose rows of train fit for one process's share, and not for both -> what it said, rows computed then."""
    import torch
    import zoo
    from zoo.events import Event, Progress
    from zoo.frozen import outputs
    from zoo.storage.feature_cache import CacheKey, FeatureCache
    from zoo.storage.table import block_of

    outputs.MEMORY_BUDGET, outputs.BLOCK = 0, 1
    os.environ["ZOO_CACHE_DIR"] = str(out / "cache-room")
    asked: dict[str, Any] = {**FEATURES, "data": out.parent / "data-1", "batch_size": 16}
    plan = zoo.plan(**{key: value for key, value in asked.items() if key != "report"})
    needed = plan.stages[0].kept_bytes
    theirs = FeatureCache(limit=10**9)
    theirs.keep(CacheKey({"name": "theirs"}), "images", block_of(torch.full((1, needed // 4), 0.1)))
    row = needed // sum(sum(plan.data.images[split]) for split in ("train", "val"))
    # 150 rows of train: room for 130 of them, and each process has 75.
    held = sum(path.stat().st_size for path in theirs.folder.rglob("*") if path.is_file())
    os.environ["ZOO_CACHE_LIMIT"] = str(held + 130 * row)
    done = [0]

    def told(event: Event) -> None:
        if isinstance(event, Progress) and event.task == "features of train":
            done.append(event.done)

    try:
        zoo.finetune(**asked, out=out / "room", on_event=told)
    except zoo.ZooError as error:
        return {"said": str(error), "done": max(done), "chunk": plan.chunk}
    finally:
        del os.environ["ZOO_CACHE_LIMIT"]
    return {}


def machines(data: Path, out: Path) -> dict[str, Any]:
    """Runs on features and on images, each process with the cache of its machine."""
    import zoo

    zoo.finetune(**FEATURES, data=data, out=out / "features")
    zoo.finetune(**{**SHARED, "epochs": 1}, data=data, out=out / "shared")
    return {}


def cut_off(data: Path, out: Path) -> dict[str, Any]:
    """A run that goes on until the others cannot be reached -> what it said of them."""
    import zoo
    from zoo.distributed import pulse
    from zoo.training.stage_watch import StageWatch

    pulse.SILENCE = 10.0
    original = StageWatch.epoch_finished

    def told(self: StageWatch, *arguments: Any) -> None:
        (out / f"epoch-{RANK}").touch()
        original(self, *arguments)

    StageWatch.epoch_finished = told  # type: ignore[method-assign]
    zoo.finetune(**{**SHARED, "epochs": 3000}, data=data, out=out / "cut-off")
    return {}


def killed(data: Path, out: Path) -> dict[str, Any]:
    """A run whose second process is killed in its third epoch."""
    import zoo
    from zoo.training.checkpoint import SECONDS_BETWEEN
    from zoo.training.stage_watch import StageWatch

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
