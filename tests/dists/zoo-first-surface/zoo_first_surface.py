"""Written against the first version of hooks and specs, and not to be changed: what worked then works still.

It uses every hook and every field that the specs had at the beginning; what is added later needs no mention here.
"""

from dataclasses import dataclass

import zoo

PREPROCESSING = zoo.Preprocessing(
    input_size=(3, 32, 32),
    resize_size=(36, 36),
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    interpolation="bilinear",
    resize="shorter",
)
TAGS = {"tiny_net": ("first", "second"), "bare_net": ()}


def build_net(*, tag, state):
    from torch import nn

    module = nn.Sequential()
    module.add_module("stem", nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU()))
    module.add_module("body", nn.Sequential(nn.Conv2d(8, 12, 3, stride=2), nn.BatchNorm2d(12), nn.ReLU()))
    if state is not None:
        zoo.load_weights(module, state, architecture="first/tiny_net", ignore=("classifier.",))
    return zoo.Backbone(
        module=module,
        shape=zoo.FeatureShape(pooled=12),
        groups=(zoo.Group(name="stem", members=("stem",)), zoo.Group(name="body", members=("body",))),
        pool=lambda module, images: module(images).mean(dim=(2, 3)),
    )


def reference(tag):
    from torchvision.transforms import functional

    def prepare(image):
        cropped = functional.center_crop(functional.resize(image, 36), 32)
        return functional.normalize(functional.to_tensor(cropped), PREPROCESSING.mean, PREPROCESSING.std)

    return prepare


def resolve(architecture):
    sources = {
        "first": zoo.HubFile(repo_id="nobody/tiny_net", filenames=("model.safetensors",), revision="main"),
        "second": zoo.UrlFile(url="https://example.org/tiny_net-0123abcd.pth", sha256_prefix="0123abcd"),
    }
    weights = tuple(
        zoo.WeightsSpec(tag=tag, preprocessing=PREPROCESSING, source=sources[tag], licence="mit", top1=12.5)
        for tag in TAGS[architecture]
    )
    return zoo.BackboneSpec(
        provider="first",
        architecture=architecture,
        build=build_net,
        preprocessing=PREPROCESSING,
        weights=weights,
        summary="Two convolutions.",
        reference=reference,
    )


@zoo.hookimpl
def zoo_backbones():
    return [
        zoo.BackboneProvider(
            name="first", summary="Two small nets.", architectures=lambda: TAGS, resolve=resolve, precedence=0
        )
    ]


@dataclass(frozen=True)
class Options:
    scale: float = 1.0

    def __post_init__(self):
        if self.scale <= 0:
            raise ValueError(f"scale must be above 0, got {self.scale}")


def build_head(shape, classes, options):
    from torch import nn

    class Scaled(nn.Linear):
        def forward(self, features):
            return options.scale * super().forward(features)

    return Scaled(shape.pooled, classes)


def loss(module, features, targets):
    from torch.nn import functional

    return functional.cross_entropy(module(features), targets, label_smoothing=0.05)


def build_plain(shape, classes, options):
    from torch import nn

    return nn.Linear(shape.pooled, classes)


@zoo.hookimpl
def zoo_heads():
    return [
        zoo.HeadSpec(
            name="first_scaled",
            summary="One linear layer, scaled.",
            build=build_head,
            options=Options,
            loss=loss,
            references=("arXiv:1512.00567",),
        ),
        zoo.HeadSpec(name="first_plain", summary="One linear layer.", build=build_plain, options=zoo.NoOptions),
    ]


RECIPE = """
summary = "The head, then the last group and the head at lower rates."
references = ["arXiv:2202.10054"]

[[stages]]
name = "head"
train = ["head"]
epochs = 2
lr = 1e-2
weight_decay = 1e-4

[[stages]]
name = "last"
train = ["head", "last:1"]
epochs = 1
lr = 1e-3
layer_decay = 0.75
"""


@zoo.hookimpl
def zoo_recipes():
    return [zoo.recipe_from_toml(RECIPE, name="first_recipe")]
