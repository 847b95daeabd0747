"""Building a module without drawing its initial values: most of the time that building takes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DRAWING = frozenset(
    {
        *(nn.init.uniform_, nn.init.normal_, nn.init.trunc_normal_, nn.init.orthogonal_),
        *(nn.init.kaiming_uniform_, nn.init.kaiming_normal_, nn.init.xavier_uniform_, nn.init.xavier_normal_),
        # Of these libraries make their own, timm for one.
        *(Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, Tensor.mul_, Tensor.div_, Tensor.add_, Tensor.clamp_),
    }
)


class undrawn(TorchFunctionMode):  # noqa: N801 - used as a function: `with zoo.undrawn():`
    """While it is active, random initial values of parameters are left out: for weights that overwrite all of them, and
    for the meta device, which holds no values. Constants (zeros, ones) are still set."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        target = args[0] if args else (kwargs or {}).get("tensor")
        if func in _DRAWING and isinstance(target, nn.Parameter):
            return target
        return func(*args, **(kwargs or {}))
