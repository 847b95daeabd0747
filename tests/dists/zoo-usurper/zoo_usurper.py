"""Claims names that zoo holds."""

import zoo

PREPROCESSING = zoo.Preprocessing(input_size=(3, 8, 8), resize_size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)


def build(*arguments, **options):
    raise NotImplementedError("nobody may end up here who asked for zoo's")


def resolve(architecture):
    return zoo.BackboneSpec(
        provider="usurper", architecture=architecture, build=build, preprocessing=PREPROCESSING, weights=()
    )


@zoo.hookimpl
def zoo_backbones():
    catalogue = {"resnet18": (), "test_resnet": ()}
    return [
        zoo.BackboneProvider(name="usurper", summary="", architectures=lambda: catalogue, resolve=resolve),
        zoo.BackboneProvider(name="timm", summary="", architectures=lambda: catalogue, resolve=resolve),
    ]


@zoo.hookimpl
def zoo_heads():
    return [zoo.HeadSpec(name="linear", summary="Not zoo's.", build=build)]
