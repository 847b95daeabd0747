"""An option that a command does not have is answered with where it belongs, or which one was meant."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from tests.conftest import Zoo


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("data check nowhere -q", "-q belongs before the command.\nNext: zoo -q data check nowhere"),
        ("data --verbose check 'a b'", "--verbose belongs before the command.\nNext: zoo --verbose data check 'a b'"),
        ("doctor -vq", "-vq belongs before the command.\nNext: zoo -vq doctor"),
        ("--epochs 3 plan --head mlp", "--epochs belongs after the command.\nNext: zoo plan --epochs 3 --head mlp"),
        ("-q --epochs=3 plan", "--epochs belongs after the command.\nNext: zoo -q plan --epochs=3"),
        ("data --class-limit 3 x", "No such option: --class-limit.\nNext: zoo data --help lists the options."),
        (
            "plan --epoch 3",
            "No such option: --epoch. Did you mean '--epochs'?\nNext: zoo plan --help lists the options.",
        ),
        (
            "plan --backbon x",
            "No such option: --backbon. Did you mean '--backbone' or '--shard-backbone'?\n"
            "Next: zoo plan --help lists the options.",
        ),
        (
            "plan --Classes=5",
            "No such option: --Classes. Did you mean '--classes'?\nNext: zoo plan --help lists the options.",
        ),
        (
            "plan -epochs 3",
            "No such option: -epochs. Did you mean '--epochs'?\nNext: zoo plan --help lists the options.",
        ),
        (
            "cache clear --verbos",
            "No such option: --verbos. --verbose belongs before the command.\nNext: zoo --verbose cache clear",
        ),
        ("--quit doctor", "No such option: --quit. Did you mean '--quiet'?\nNext: zoo --help lists the options."),
        (
            "sweep --data d --weights w.pth --head mlp",
            "No such option: --weights. A sweep takes it with --over. A file of weights may also stand behind its "
            "backbone: --backbone NAME=FILE.\nNext: zoo sweep --data d --over weights=w.pth --head mlp",
        ),
        (
            "sweep --head-option=p=0.2",
            "No such option: --head-option. A sweep takes it with --over.\nNext: zoo sweep --over head_option.p=0.2",
        ),
        (
            "sweep --batch-size",
            "No such option: --batch-size. A sweep takes it with --over.\nNext: zoo sweep --over batch_size=VALUE",
        ),
        (
            "embed --backbone resnet18 d",
            "No such option: --backbone. zoo embed takes it without the name of an option.\n"
            "Next: zoo embed BACKBONE|RUN DATA --out OUT",
        ),
        (
            "data labels --data d",
            "No such option: --data. zoo data labels takes it without the name of an option.\n"
            "Next: zoo data labels PATH",
        ),
        (
            "shortlist --weights w.pth",
            "No such option: --weights. A file of weights stands behind its backbone.\n"
            "Next: zoo shortlist --backbones NAME=FILE",
        ),
        (
            "data labels d --html page.html",
            "No such option: --html. The page is written into the folder that --out names.\n"
            "Next: zoo data labels PATH --out FOLDER",
        ),
        (
            "finetune --over head=linear,mlp",
            "No such option: --over. --set takes one value, and zoo sweep --over tries several.\n"
            "Next: zoo sweep --help",
        ),
        ("doctor -x", "No such option: -x.\nNext: zoo doctor --help lists the options."),
    ],
)
def test_the_message_says_where_it_belongs_or_what_is_nearest(line: str, message: str, zoo_inside: Zoo) -> None:
    done = zoo_inside(*shlex.split(line))
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"Error: {message}\n")


def test_programs_are_told_the_same(zoo_inside: Zoo) -> None:
    done = zoo_inside("--json", "data", "check", "x")
    message = "--json belongs after the command.\nNext: zoo data check --json x"
    assert json.loads(done.stdout)["error"] == {"kind": "usage", "message": message, "exit_code": 2}


def test_the_next_step_works(zoo_inside: Zoo, few: Path) -> None:
    for words in (("data", "check", few, "-q"), ("--json", "data", "check", few)):
        refused = zoo_inside(*words)
        step = refused.stderr.rpartition("Next: zoo ")[2]
        assert refused.returncode == 2 and zoo_inside(*shlex.split(step)).returncode == 0


def test_a_command_of_a_plugin_is_no_exception(among: Zoo) -> None:
    done = among("greet", "Ada", "-q")
    assert done.stderr == "Error: -q belongs before the command.\nNext: zoo -q greet Ada\n"
