"""Processes that were started with other commands are stopped before they wait for one another in different places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from zoo.distributed.group import ProcessGroup
from zoo.errors import Refused
from zoo.planning.request import make_request
from zoo.training.processes import refuse_other_commands


class OneOfTwo(ProcessGroup):
    """Process 0, whose companion has what is put in place of what it gathers itself."""

    count = 2

    def __init__(self, others: Callable[[Any], Any]) -> None:
        self._others = others

    def gather(self, value: Any) -> list[Any]:
        return [value, self._others(value)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"backbone": "resnet18"}, r'\n  backbone: "auto" in process 0, "resnet18" in process 1\nNext: '),
        ({"head_options": {"p": 0.1}}, r"\n  head_options\.p: 0\.3 in process 0, 0\.1 in process 1\nNext: "),
        ({"versions": {}}, r"\n  versions\.python: .* in process 0, null in process 1\n"),
        ({"command": "resume", "backbone": None}, r'\n  command: "finetune" in process 0, "resume" in process 1\nNext'),
    ],
)
def test_what_differs_is_named(change: dict[str, Any], said: str) -> None:
    asked = make_request(backbone="auto", head_options={"p": 0.3}, data="here", out="there", workers=3)
    refuse_other_commands("finetune", asked, ProcessGroup())
    refuse_other_commands("finetune", asked, OneOfTwo(lambda told: told))
    with pytest.raises(Refused, match=said):
        refuse_other_commands("finetune", asked, OneOfTwo(lambda told: {**told, **change}))


def test_where_things_are_may_differ() -> None:
    told: list[Any] = []

    def keep(value: Any) -> Any:
        told.append(value)
        return value

    for where in ("a", "b"):
        asked = make_request(backbone="x", data=where, out=where, weights=f"{where}.pth", workers=len(told) + 1)
        refuse_other_commands("finetune", asked, OneOfTwo(keep))
    assert told[0] == told[1]
