"""The conformance kit: what zoo relies on in a head, a backbone or a recipe, checked one thing at a time.

    from zoo.testing import check_head

    def test_my_head_is_what_zoo_relies_on() -> None:
        check_head("my_head")

`check_head`, `check_backbone` and `check_recipe` raise `ConformanceError` with all that failed, and return the report
where nothing did; `zoo plugins check NAME` prints the same report. What a plugin raises is a failed check, never a
traceback. Importing this imports no torch: the checks do when they run. Weights are random, nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path

from zoo.recipes import RecipeSpec
from zoo.registry import Registry
from zoo.specs import BackboneSpec, HeadSpec
from zoo.testing.find import examine, examine_backbone, examine_head, examine_recipe
from zoo.testing.report import Check, ConformanceError, Report, Verdict


def check_head(head: str | HeadSpec, *, registry: Registry | None = None) -> Report:
    """Everything that zoo relies on in a head.

    Args:
        head: `[plugin/]name` of an installed one, or the spec itself.
        registry: Where the name is looked up; default: the installed plugins.

    Raises:
        ConformanceError: With every check that failed.
        UnknownName, NameConflict: No such head, or two of them.
    """
    return _raised(examine_head(head, registry=registry))


def check_backbone(backbone: str | BackboneSpec, *, registry: Registry | None = None) -> Report:
    """Everything that zoo relies on in a backbone, built with random weights for its default tag, or the one named.

    Args:
        backbone: `[provider/]architecture[.tag]` of an installed provider, or the spec itself.
        registry: Where the name is looked up; default: the installed plugins.

    Raises:
        ConformanceError: With every check that failed.
        UnknownName, NameConflict: No such backbone, or two of them.
    """
    return _raised(examine_backbone(backbone, registry=registry))


def check_recipe(recipe: str | RecipeSpec, *, backbone: str = "", registry: Registry | None = None) -> Report:
    """Everything that zoo relies on in a recipe: it is carried out, one epoch a stage, and its proof must pass.

    Args:
        recipe: `[plugin/]name` of an installed one, or the spec itself.
        backbone: On which it is tried, with random weights; default: `tiny_backbone()`, whose groups are stem, stage1,
            stage2, stage3 and norm. A recipe that names groups of its own needs a backbone that has them.
        registry: Where names are looked up; default: the installed plugins.

    Raises:
        ConformanceError: With every check that failed.
        UnknownName, NameConflict: No such recipe or backbone, or two of them.
    """
    return _raised(examine_recipe(recipe, backbone=backbone, registry=registry))


def tiny_backbone() -> BackboneSpec:
    """A convolutional backbone of five groups, some 12,000 parameters and images of 32x32 pixels: `testing/tiny`.

    It has pooled features, a map, batch norms, biases and a dropout, so that recipes find all that they speak of.
    """
    from zoo.testing.tiny import SPEC

    return SPEC


def tiny_images(folder: str | Path, *, classes: int = 2, train: int = 4, val: int = 2) -> Path:
    """Draw a small image set: `train/CLASS/` and `val/CLASS/` under a new `folder`, so many pictures of each class.

    The same arguments draw the same pictures. -> the folder. Raises FileExistsError where it is there already.
    """
    from zoo.testing.images import draw

    return draw(Path(folder), classes=classes, train=train, val=val)


def _raised(report: Report) -> Report:
    if not report.passed:
        raise ConformanceError(report)
    return report


__all__ = [
    "Check",
    "ConformanceError",
    "Report",
    "Verdict",
    "check_backbone",
    "check_head",
    "check_recipe",
    "examine",
    "tiny_backbone",
    "tiny_images",
]
