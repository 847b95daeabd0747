"""What requests may cost, one by one and together."""

from __future__ import annotations

import pytest
from zoo.errors import OptionError
from zoo.serving.limits import RequestLimits, Room, limits_of
from zoo.serving.problems import Problem


def test_what_is_not_given_follows_what_is() -> None:
    assert limits_of(images=None, image_bytes=None, pixels=None, seconds=None) == RequestLimits()
    large = limits_of(images=1000, image_bytes=300_000_000, pixels=7, seconds=0.5)
    assert (large.images, large.pixels, large.seconds) == (1000, 7, 0.5)
    few = limits_of(images=2, image_bytes=None, pixels=None, seconds=None)
    assert few.explained == 2, "no request may have more images than a request may have"
    # One request with all that it may have must find room.
    assert large.queue >= large.images and large.held_bytes >= large.request_bytes >= large.image_bytes


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_limit_that_lets_nothing_through_is_refused(value: float) -> None:
    with pytest.raises(OptionError, match="seconds must be above 0"):
        limits_of(images=None, image_bytes=None, pixels=None, seconds=value)
    with pytest.raises(OptionError, match="Next: let at least 9 wait"):
        RequestLimits(images=9, queue=8)


def test_requests_together_hold_no_more_than_they_may_and_leave_nothing_behind() -> None:
    room = Room(RequestLimits(requests=2, held_bytes=100))
    with room.entered() as first, room.entered() as second:
        first.add(60)
        with pytest.raises(Problem) as busy, room.entered():
            pass
        assert busy.value.status == 503 and busy.value.headers == {"Retry-After": "1"}
        with pytest.raises(Problem) as full:
            second.add(41)
        assert full.value.status == 503
        second.add(40)
        assert (room.requests, room.bytes) == (2, 100)
    assert (room.requests, room.bytes) == (0, 0)
    with pytest.raises(ValueError), room.entered() as held:
        held.add(100)
        raise ValueError
    assert (room.requests, room.bytes) == (0, 0)
