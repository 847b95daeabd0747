"""Models: a backbone with a head, for code of your own that trains it or looks at it."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from zoo.api.arguments import checked_arguments
from zoo.errors import OptionError
from zoo.planning.request import check_input_size
from zoo.registry.registry import Registry, default_registry

if TYPE_CHECKING:
    from torch import nn

    from zoo.model.model import ZooModel
    from zoo.specs.backbone import BackboneSpec
    from zoo.specs.head import HeadCallable, HeadSpec


@checked_arguments()
def create_model(
    backbone: str | BackboneSpec | nn.Module,
    *,
    head: str | HeadSpec | HeadCallable = "dropout_linear",
    classes: int | Sequence[str],
    weights: str = "default",
    head_options: Mapping[str, Any] | None = None,
    input_size: int | tuple[int, int] | None = None,
    offline: bool = False,
    registry: Registry | None = None,
) -> ZooModel:
    """Build a backbone with a head: `images[N, 3, H, W]` -> `logits[N, classes]`.

    With `weights="random"` it honours `with torch.device("meta")`. The model carries `.preprocessing`.

    Args:
        backbone: `[provider/]architecture[.tag]`, a `BackboneSpec`, or a torch module as for `finetune`.
        head: `[plugin/]name`, a `HeadSpec`, or a function `(shape, classes)` that returns a torch module.
        classes: Number of classes, or their names in order.
        weights: `default`, a tag, `random`, or the path of a file. Of a training checkpoint that holds a moving average
            beside the raw weights, the average is taken.
        head_options: The head's options by name; the rest have their defaults.
        input_size: (height, width) in pixels, or one number for both. Default: that of the weights.
        offline: Do not touch the network. Weights that are not on this machine are an error then.

    Raises:
        ZooError: An unknown name, an option that cannot be, a head that this backbone cannot take, or weights that
            cannot be downloaded or do not fit.
    """
    from zoo.planning.objects import name_objects
    from zoo.planning.resolved_model import resolve_model
    from zoo.weights.obtain import obtain_weights

    names = _class_names(classes)
    named = name_objects(registry or default_registry(), backbone=backbone, head=head)
    if not named.backbone:
        raise OptionError("A backbone is needed: [provider/]architecture[.tag].\nNext: zoo list backbones")
    model = resolve_model(
        named.registry,
        named.backbone,
        named.head,
        head_options=head_options or {},
        weights=weights,
        input_size=None if input_size is None else check_input_size(input_size),
    )
    model.check_input_size()  # before anything is downloaded
    return model.build(
        names, obtain_weights(model.backbone, model.weights, model.architecture(), offline=offline).state
    )


def _class_names(classes: object) -> tuple[str, ...]:
    """The names that are given, or `class0`, `class1`, ... for their number, of whatever kind. Raises OptionError."""
    if isinstance(classes, str):  # a sequence of letters, to Python
        raise OptionError(f"classes={classes!r} is one text.\nNext: classes=[...] with the names, or their number.")
    given: tuple[object, ...] | None = None
    # To Python, True is the number 1. Here it is a slip.
    if not isinstance(classes, bool):
        with contextlib.suppress(TypeError):
            given = tuple(f"class{index}" for index in range(operator.index(cast("int", classes))))
    if given is None and isinstance(classes, Iterable):
        given = tuple(classes)
    if given is None or not all(isinstance(name, str) for name in given):
        raise OptionError(f"classes={classes!r} are neither names nor their number.\nNext: classes=['cat', 'dog']")
    names = tuple(map(str, given))  # a text of numpy, too
    if len(names) < 2 or len(set(names)) < len(names):
        raise OptionError(f"classes must be at least two different names, got {names!r}.\nNext: classes=['cat', 'dog']")
    return names
