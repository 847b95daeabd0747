"""What there is: backbones, heads, recipes and data sources of every installed plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.api.arguments import checked_arguments
from zoo.planning.request import check_input_size, parse_count
from zoo.registry.catalogue import Filter, Listed, find_backbones
from zoo.registry.registry import Registry, default_registry
from zoo.specs.data import DataSourceSpec
from zoo.specs.head import HeadSpec

if TYPE_CHECKING:
    from zoo.specs.recipe import RecipeSpec


@checked_arguments()
def list_backbones(
    pattern: str = "*",
    *,
    tag_pattern: str | None = None,
    provider: str | None = None,
    pretrained: bool = False,
    max_params: int | str | None = None,
    max_gmacs: float | None = None,
    licence: str | None = None,
    input_size: int | tuple[int, int] | None = None,
    head: str | None = None,
    sort: str | None = None,
    registry: Registry | None = None,
) -> list[Listed]:
    """List the architectures of every provider. Each argument narrows the list. Imports no torch.

    Args:
        pattern: Matches bare or qualified names, with `*` and `?`. Without either, the name must contain it.
        tag_pattern: The same for names of weights, `[provider/]architecture.tag`. Only these weights are listed.
        provider: `torchvision`, `timm` or another one that is installed.
        pretrained: Only backbones with published weights.
        max_params: Largest number of parameters, without the classifier, or a text such as `25M`.
        max_gmacs: Largest number of billion multiply-adds for one image of the default weights' size.
        licence: Only weights of this licence, as upstream states it; `unstated` for weights without one.
        input_size: Only weights made for (height, width) in pixels.
        head: Only backbones that can take this head.
        sort: `name`, `params`, `gmacs`, `features`, `input` or `top1` (best first). Default: by provider, then name.

    Raises:
        UnknownName: No such provider, licence or head. A pattern that matches nothing gives an empty list.
        OptionError: An unknown `sort`.
    """
    known = registry or default_registry()
    wanted = Filter(
        # An empty pattern, as the command line has without one, matches all.
        pattern=pattern or "*",
        tag_pattern=tag_pattern,
        provider=provider,
        pretrained=pretrained,
        max_params=None if max_params is None else parse_count("--max-params", max_params),
        max_gmacs=max_gmacs,
        # Licences are compared in lower case; upstream writes them in both.
        licence=licence.lower() if licence is not None else None,
        input_size=None if input_size is None else check_input_size(input_size),
        head=known.head(head).spec if head is not None else None,
    )
    return find_backbones(known, wanted, sort=sort)


@checked_arguments()
def list_heads(*, registry: Registry | None = None) -> list[HeadSpec]:
    """List every registered head."""
    return [head.spec for head in (registry or default_registry()).heads()]


@checked_arguments()
def list_recipes(*, registry: Registry | None = None) -> list[RecipeSpec]:
    """List every registered recipe."""
    return [recipe.spec for recipe in (registry or default_registry()).recipes()]


@checked_arguments()
def list_data_sources(*, registry: Registry | None = None) -> list[DataSourceSpec]:
    """List every registered data source: what `data` may be beside class folders, which zoo reads itself."""
    return [source.spec for source in (registry or default_registry()).data_sources()]
