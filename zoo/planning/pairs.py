"""Whether a head can work on a backbone, from what the provider's index knows: before anything is built."""

from __future__ import annotations

from zoo.errors import Refused
from zoo.registry import Contribution, Registry, ResolvedBackbone
from zoo.specs import HeadSpec


def refuse_pair(backbone: ResolvedBackbone, head: Contribution[HeadSpec], registry: Registry) -> None:
    """Raise Refused, naming the heads that work, where the head needs a map and the backbone has none.

    A backbone that is not in its provider's index passes; building it tells.
    """
    facts = backbone.spec.facts
    if head.spec.needs == "pooled" or facts is None or facts.map is not None:
        return
    works = ", ".join(each.spec.name for each in registry.heads() if each.spec.needs == "pooled")
    raise Refused(
        f"Head {head.spec.name!r} needs a map[N, C, H, W] of features, and {backbone.spec.name} has none"
        f"{': ' + facts.note if facts.note else ''}.\n"
        f"Next: a head that works there: {works}; or a backbone with a map: "
        f"zoo list backbones --head {head.spec.name}"
    )
