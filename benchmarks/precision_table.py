"""The table from which zoo knows precision and memory layout without measuring, made anew for this kind of processor.

    python -m benchmarks.precision_table [--turns 7] [--only NETWORK...] [--write FILE]

Every network is timed with random weights in all precisions and layouts, which take turns; one thread computes, and its
own clock counts, so that other programs on the machine do little harm. Rows of other kinds of processors stay as they
are, and rows of this one are replaced, network by network. It takes half an hour or so on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import torch
from zoo.errors import ZooError
from zoo.model.devices import processor_fields
from zoo.planning.network_kind import network_work
from zoo.planning.pass_times import take_turns
from zoo.planning.precision_table import TABLE, NetworkRow, Work, processor_kind
from zoo.planning.resolved_model import ResolvedModel, resolve_model
from zoo.registry.registry import default_registry
from zoo.specs.plan import Compute
from zoo.storage.atomic import json_text

COMPUTES = (
    *(Compute(), Compute("float32", "channels_last")),
    *(Compute("bfloat16"), Compute("bfloat16", "channels_last")),
)
NETWORKS = (
    *("squeezenet1_1", "timm/test_resnet", "timm/tf_efficientnet_lite0", "resnet18", "mobilenet_v3_small"),
    *("timm/test_vit", "timm/test_convnext", "timm/test_mambaout", "timm/test_efficientnet", "timm/test_byobnet"),
    *("timm/vit_tiny_patch16_224", "timm/convnext_atto", "timm/efficientnet_b0", "timm/resnet10t", "googlenet"),
    *("timm/mobilenetv3_large_100", "timm/tf_efficientnet_lite1", "timm/tf_efficientnet_lite2", "timm/resnet14t"),
    *("timm/test_nfnet", "shufflenet_v2_x1_0", "timm/mnasnet_small", "timm/lcnet_050", "timm/ghostnet_100"),
    *("timm/regnety_004", "timm/regnetx_004", "timm/mambaout_femto", "timm/levit_128s", "timm/efficientvit_b0"),
    *("timm/xcit_nano_12_p16_224", "timm/edgenext_xx_small", "timm/resmlp_12_224", "timm/gmlp_ti16_224"),
    *("alexnet", "timm/repvgg_a0", "timm/hrnet_w18_small", "densenet121", "resnet50", "timm/dla34", "vgg11"),
    *("timm/vit_small_patch16_224", "convnext_tiny", "timm/swin_tiny_patch4_window7_224", "resnext50_32x4d"),
    *("timm/mobilevit_s", "timm/poolformer_s12", "timm/mixer_s32_224", "timm/mixer_b16_224", "timm/darknet53"),
    *("timm/maxvit_nano_rw_256", "timm/deit_tiny_patch16_224"),
)


def measured_rows(network: str, processor: str, turns: int) -> list[NetworkRow]:
    """The network's rows, of inference and training; none where a pass fails in float32."""
    model = resolve_model(default_registry(), network, "linear", head_options={})
    return [row for work in get_args(Work) if (row := _row(model, work, processor, turns)) is not None]


def _row(model: ResolvedModel, work: Work, processor: str, turns: int) -> NetworkRow | None:
    outline = model.outline(("one", "other"))
    counted = network_work(outline)
    _, height, width = outline.preprocessing.input_size
    taken = take_turns(model.headless, COMPUTES, device="cpu", trains=work == "training", turns=turns)
    if not taken or COMPUTES[0] not in taken[-1]:
        return None
    times = {
        str(each): round(statistics.median(turn[COMPUTES[0]] / turn[each] for turn in taken), 2)
        for each in COMPUTES
        if all(each in turn for turn in taken)
    }
    return NetworkRow(
        processor=processor,
        network=model.backbone.spec.name,
        size=(height, width),
        work=work,
        kind=counted.kind,
        multiply_adds=counted.multiply_adds,
        values=counted.values,
        times=times,
    )


def merged(content: dict[str, Any], rows: Sequence[NetworkRow], made: dict[str, Any]) -> dict[str, Any]:
    """The table's content with these rows in place of its own about the same, and how this processor's were made."""
    new = {_about(row.to_dict()) for row in rows}
    kept = [row for row in content["rows"] if _about(row) not in new]
    listed = sorted([*kept, *(row.to_dict() for row in rows)], key=_about)
    return {**content, "made": {**content["made"], made["processor"]: made}, "rows": listed}


def _about(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["processor"], row["network"], row["work"]


def _made(processor: str, turns: int) -> dict[str, Any]:
    fields = processor_fields()
    names = ("model name", "cpu family", "model")
    return {
        "processor": processor,
        "machine": ", ".join(f"{name} {fields[name]}" for name in names if name in fields) or platform.machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "torch": torch.__version__,
        "turns": turns,
        "command": "python -m benchmarks.precision_table",
    }


def main() -> int:
    given = _arguments()
    processor = processor_kind()
    if not processor:
        print("This kind of processor is not told apart, so it can have no rows.", file=sys.stderr)
        return 1
    empty = {"format": 1, "made": {}, "rows": []}
    content = json.loads(given.write.read_text("utf-8")) if given.write.exists() else empty
    for network in given.only:
        try:
            rows = measured_rows(network, processor, given.turns)
        except ZooError as error:
            print(error, file=sys.stderr)
            return error.exit_code
        for row in rows:
            times = "  ".join(f"{name} {times:.2f}" for name, times in row.times.items())
            print(f"{row.network:<36}{row.work:<10}{row.kind:<13}{row.intensity:>7.0f}  {times}", flush=True)
        content = merged(content, rows, _made(processor, given.turns))
        given.write.write_text(_one_row_a_line(content), "utf-8")  # so that what was measured is kept if it is stopped
    return 0


def _one_row_a_line(content: dict[str, Any]) -> str:
    rows = ",\n".join("    " + json.dumps(row) for row in content["rows"])
    head = json_text({**content, "rows": []}).rstrip()
    return head.replace('"rows": []', f'"rows": [\n{rows}\n  ]') + "\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.precision_table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--turns", type=int, default=7, help="of every network and work")
    parser.add_argument("--only", nargs="+", default=NETWORKS, metavar="NETWORK", help="instead of all in the table")
    parser.add_argument("--write", type=Path, default=TABLE, metavar="FILE", help="default: the one that zoo brings")
    given = parser.parse_args()
    if given.turns < 1:
        parser.error(f"--turns must be at least 1, got {given.turns}")
    return given


if __name__ == "__main__":
    sys.exit(main())
