"""`zoo predict` and `zoo embed` with `--on`: which options go together."""

from __future__ import annotations

import pytest
from tests.conftest import Zoo


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("predict", "run", "photos", "--on", "ray"), "--on ray writes a folder of parts, and there is none"),
        (("predict", "run", "photos", "--part-size", "9"), "--part-size writes a folder of parts"),
        (("predict", "run", "photos", "--part-size", "0"), "--part-size writes a folder of parts"),
        (("predict", "run", "photos", "--processes", "0"), "--processes writes a folder of parts"),
        (("predict", "run", "photos", "--out", "o", "--csv", "x.csv"), "--csv does not go with --on and --out"),
        (("predict", "run", "photos", "--out", "o", "--compile"), "--compile does not go with --on and --out"),
        (("predict", "run", "-", "--out", "o"), "- does not go with --on and --out"),
        (("predict", "run", "photos", "--out", "o", "--on", "rya"), "Did you mean 'ray'"),
        (("embed", "resnet18", "photos", "--out", "o", "--on", "locl"), "Did you mean 'local'"),
        (("embed", "resnet18", "photos", "--out", "o", "--processes", "2"), "--processes is for the workers of a Ray"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words: tuple[str, ...], told: str, zoo_inside: Zoo) -> None:
    done = zoo_inside(*words)
    assert done.returncode == 2 and told in done.stderr.replace("\n", " "), done.stderr
    assert "Next: " in done.stderr
