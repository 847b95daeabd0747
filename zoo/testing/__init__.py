"""The conformance kit: checks that a head, a backbone or a recipe does everything zoo relies on.

    from zoo.testing import check_head

    def test_my_head_conforms() -> None:
        check_head("my_head")

`check_head`, `check_backbone` and `check_recipe` run every check. They return the report if none failed, and raise
`ConformanceError` with all failures otherwise; `zoo plugins check NAME` prints the same report. An exception in a
plugin is a failed check, never a traceback. Weights are random and nothing is downloaded. Importing this module imports
no torch: the checks import it when they run.
"""

from __future__ import annotations

from pathlib import Path

from zoo.registry.registry import Registry
from zoo.specs.backbone import BackboneSpec
from zoo.specs.head import HeadSpec
from zoo.specs.recipe import RecipeSpec
from zoo.testing.find import examine, examine_backbone, examine_head, examine_recipe
from zoo.testing.report import ConformanceCheck, ConformanceError, Report, Verdict

Check = ConformanceCheck
"""The former name of `ConformanceCheck`, kept for code that imports it."""


def check_head(head: str | HeadSpec, *, registry: Registry | None = None) -> Report:
    """Run every conformance check of a head.

    Args:
        head: `[plugin/]name` of an installed head, or the spec itself.
        registry: Where the name is looked up; default: the installed plugins.

    Raises:
        ConformanceError: At least one check failed; the message lists all that did.
        UnknownName, NameConflict: No head has this name, or several have.
    """
    return _raise_if_failed(examine_head(head, registry=registry))


def check_backbone(backbone: str | BackboneSpec, *, registry: Registry | None = None) -> Report:
    """Run every conformance check of a backbone, built with random weights.

    Args:
        backbone: `[provider/]architecture[.tag]` of an installed provider, or the spec itself. Without a tag, the
            backbone is built as for its default weights.
        registry: Where the name is looked up; default: the installed plugins.

    Raises:
        ConformanceError: At least one check failed; the message lists all that did.
        UnknownName, NameConflict: No backbone has this name, or several have.
    """
    return _raise_if_failed(examine_backbone(backbone, registry=registry))


def check_recipe(recipe: str | RecipeSpec, *, backbone: str = "", registry: Registry | None = None) -> Report:
    """Run every conformance check of a recipe: it trains for one epoch per stage, and its proof must pass.

    Args:
        recipe: `[plugin/]name` of an installed recipe, or the spec itself.
        backbone: The backbone to train, with random weights; default: `tiny_backbone()`, whose groups are stem, stage1,
            stage2, stage3 and norm. A recipe that names other groups needs a backbone that has them.
        registry: Where names are looked up; default: the installed plugins.

    Raises:
        ConformanceError: At least one check failed; the message lists all that did.
        UnknownName, NameConflict: No recipe or backbone has this name, or several have.
    """
    return _raise_if_failed(examine_recipe(recipe, backbone=backbone, registry=registry))


def tiny_backbone() -> BackboneSpec:
    """Return the spec of `testing/tiny`: a convolutional backbone for images of 32x32 pixels.

    It has five groups, 16,536 parameters, pooled features and a map, batch norms, biases and dropout, so that
    every selector of a recipe matches something.
    """
    from zoo.testing.tiny import SPEC

    return SPEC


def tiny_images(folder: str | Path, *, classes: int = 2, train: int = 4, val: int = 2) -> Path:
    """Draw a small image set into a new folder, as `train/CLASS/` and `val/CLASS/`, and return the folder.

    The same arguments always draw the same images.

    Args:
        folder: The folder to create.
        classes: Number of classes, named class0, class1 and so on.
        train: Training images per class.
        val: Validation images per class.

    Raises:
        FileExistsError: The folder already exists.
    """
    from zoo.testing.tiny import draw

    return draw(Path(folder), classes=classes, train=train, val=val)


def _raise_if_failed(report: Report) -> Report:
    if not report.passed:
        raise ConformanceError(report)
    return report


__all__ = [
    "Check",
    "ConformanceCheck",
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
