"""Which requests a server takes for those of another site's page."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers
from zoo.errors import OptionError
from zoo.serving.sites import Sites


def code(sites: Sites, method: str = "POST", **headers: str) -> str:
    problem = sites.problem_of(method, Headers({name.replace("_", "-"): value for name, value in headers.items()}))
    return problem.code if problem is not None else ""


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8000", "localhost", "LOCALHOST:80", "zoo.localhost", "[::1]:8000", "192.0.2.7", "flowers.example", ""],
)
def test_addresses_localhost_and_names_that_were_given_are_answered(host: str) -> None:
    assert code(Sites(["Flowers.Example"]), host=host) == ""


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example:8000", "localhost.evil.example", "flowers.example.evil", "[::1"],
)
def test_any_other_name_could_be_that_of_a_site_that_means_this_machine(host: str) -> None:
    assert code(Sites(["flowers.example"]), host=host) == "host"
    assert code(Sites(None), host=host) == "", "where anybody may connect, no name is known"


def test_what_a_page_of_another_site_sends_is_refused_and_what_it_links_to_is_not() -> None:
    for sites in (Sites([]), Sites(None)):
        assert code(sites, host="localhost", sec_fetch_site="cross-site") == "other_site"
        for site in ("same-origin", "same-site", "none"):
            assert code(sites, host="localhost", sec_fetch_site=site) == ""
        assert code(sites, "GET", host="localhost", sec_fetch_site="cross-site") == ""


@pytest.mark.parametrize("name", ["", "http://a.example", "a.example:80", "*.example"])
def test_what_is_not_a_name_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match="--allow-host takes the name of a host"):
        Sites([name])
