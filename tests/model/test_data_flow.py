"""Whether the parts of a module are a chain is what is measured, not what their order looks like."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from zoo.model.data_flow import NoChain, find_chain


class Parts(nn.Module):
    """Three convolutions and one pooling without parameters, which the subclasses call in various orders."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(functional.relu(self.first(x), inplace=True))
        x = self.pool(torch.sigmoid(self.second(x)))
        return self.third(x).mean((2, 3))


def order(module: nn.Module) -> tuple[str, ...]:
    return find_chain(module.eval(), torch.zeros(2, 3, 16, 16))


def test_functions_and_parts_without_parameters_may_lie_between_and_be_called_twice() -> None:
    module = Parts()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}

    assert order(module) == ("first", "second", "third")
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_the_order_is_that_of_the_data_where_the_parts_were_made_in_another() -> None:
    class Turned(Parts):
        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(self.third(x)))

    assert order(Turned()) == ("third", "first", "second")


class Skipping(Parts):
    def forward(self, x: Tensor) -> Tensor:
        one = self.first(x)
        return self.third(self.second(one) + one)


class Branching(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.first(x)) + self.second(x)


class Late(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.first(x))) + x


class Twice(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.first(self.first(x))))


class Idle(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class Hidden(Parts):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.first(x) * 1
        return self.third(self.second(x.detach()))


class Owning(Parts):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(3, 1, 1))


@pytest.mark.parametrize(
    ("module", "seen"),
    [
        (Skipping(), r"its part 'third' gets the output of 'first', the output of 'second'"),
        (Branching(), r"its part 'second' gets the images, where the output of 'third' alone was expected"),
        (Late(), r"its output gets the images, the output of 'third'"),
        (Twice(), r"its part 'first' is called 2 times"),
        (Idle(), r"its part 'third' is not called"),
        (Hidden(), r"its part 'second' is not computed from the output of 'first' in a way that gradients follow"),
        (Owning(), r"it has parameters of its own beside its parts: token"),
        (nn.ReLU(), r"none of its parts has parameters"),
        (nn.Sequential(nn.LSTM(16, 4)), r"its part '0' returns|could not be followed"),
    ],
)
def test_anything_else_is_told_with_what_was_seen(module: nn.Module, seen: str) -> None:
    with pytest.raises(NoChain, match=seen):
        order(module)
