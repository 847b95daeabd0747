"""Objects in place of names: what a registry with a session finds, and that the registry below stays as it is."""

from __future__ import annotations

import pytest
import zoo
from zoo.errors import UnknownName
from zoo.registry.names import qualified_name
from zoo.registry.registry import default_registry
from zoo.registry.session import SessionRegistry, missing_objects, of_session


def spec(name: str) -> zoo.HeadSpec:
    return zoo.HeadSpec(name=name, summary="", build=lambda shape, classes, options: None)


def test_an_object_is_found_by_its_qualified_name_alone_in_its_session() -> None:
    base = default_registry()
    session = SessionRegistry(base, heads=[spec("mine")])

    found = session.head("session/mine")

    assert qualified_name(found) == "session/mine" and of_session(qualified_name(found))
    assert session.head("linear").spec is base.head("linear").spec
    with pytest.raises(UnknownName, match=r"\nNext: pass the object itself as head"):
        base.head("session/mine")


def test_an_object_never_takes_over_the_name_of_an_installed_head() -> None:
    session = SessionRegistry(default_registry(), heads=[spec("linear")])

    assert not of_session(qualified_name(session.head("linear")))
    assert of_session(qualified_name(session.head("session/linear")))


def test_a_backbone_of_the_session_is_found_beside_all_others() -> None:
    base = default_registry()
    resnet = base.backbone("timm/test_resnet").spec
    mine = zoo.BackboneSpec(
        provider="session", architecture="mine", build=resnet.build, preprocessing=resnet.preprocessing
    )

    session = SessionRegistry(base, backbones=[mine])

    assert session.backbone("session/mine").spec is mine
    assert session.backbone("timm/test_resnet").spec == resnet
    with pytest.raises(UnknownName, match=r"\nNext: pass the object itself as backbone"):
        base.backbone("session/mine")


def test_the_next_step_names_every_object_that_is_missing_the_data_of_a_run_too() -> None:
    def step(data: str) -> str:
        said = missing_objects(
            default_registry(),
            backbone="timm/test_resnet",
            head="session/my_head",
            whose="This run",
            call="zoo.resume(RUN",
            data=data,
        )
        return str(said).partition("Next: ")[2]

    assert step("folder") == "zoo.resume(RUN, head=my_head)"
    assert step("session/data") == "zoo.resume(RUN, head=my_head, data=data)"
