"""Whether a backbone takes images of another size than its weights were made for."""

from __future__ import annotations

from zoo.errors import OptionError
from zoo.model.measure import sizes_near, takes
from zoo.registry import ResolvedBackbone


def refuse_input_size(backbone: ResolvedBackbone, tag: str | None, asked: tuple[int, int]) -> None:
    """Raise OptionError, naming sizes that work, where the architecture cannot take `asked`; found out by trying."""
    spec = backbone.spec
    _, *sides = spec.preprocessing_for(tag).input_size
    native = (sides[0], sides[1])
    if asked == native or takes(spec.build, tag, asked):
        return
    if spec.facts is not None and spec.facts.fixed_input:
        allowed = f"It takes {_text(native)} alone."
    else:
        near = sizes_near(spec.build, tag, asked, native)
        allowed = f"Sizes near it that work: {', '.join(map(_text, near))}."
    raise OptionError(
        f"{spec.name} does not take images of {_text(asked)}. {allowed}\n"
        "Next: one of these, or another backbone; zoo show NAME says whether it takes other sizes."
    )


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
