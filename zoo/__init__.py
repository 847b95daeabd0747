"""zoo: any pretrained backbone, any head, any freezing recipe.

`import zoo` imports neither torch nor any plugin: what is used is imported when it is first touched.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.api import check_data as check_data
    from zoo.api import compare as compare
    from zoo.api import create_model as create_model
    from zoo.api import evaluate as evaluate
    from zoo.api import export as export
    from zoo.api import fetch_weights as fetch_weights
    from zoo.api import finetune as finetune
    from zoo.api import import_weights as import_weights
    from zoo.api import list_backbones as list_backbones
    from zoo.api import list_data_sources as list_data_sources
    from zoo.api import list_heads as list_heads
    from zoo.api import list_recipes as list_recipes
    from zoo.api import list_weights as list_weights
    from zoo.api import load as load
    from zoo.api import plan as plan
    from zoo.api import pull as pull
    from zoo.api import push as push
    from zoo.api import report as report
    from zoo.api import verify as verify
    from zoo.api import verify_weights as verify_weights
    from zoo.artefact.classifier import Classifier as Classifier
    from zoo.artefact.classifier import Prediction as Prediction
    from zoo.comparing.comparison import Comparison as Comparison
    from zoo.data.checking.report import DataReport as DataReport
    from zoo.errors import DataError as DataError
    from zoo.errors import WeightsMismatch as WeightsMismatch
    from zoo.errors import ZooError as ZooError
    from zoo.evaluation.confusion_image import draw_confusion as draw_confusion
    from zoo.events import BatchFinished as BatchFinished
    from zoo.events import CheckpointSaved as CheckpointSaved
    from zoo.events import EpochFinished as EpochFinished
    from zoo.events import EpochStarted as EpochStarted
    from zoo.events import Event as Event
    from zoo.events import Note as Note
    from zoo.events import RunFinished as RunFinished
    from zoo.events import RunStarted as RunStarted
    from zoo.events import RunStopped as RunStopped
    from zoo.events import StageFinished as StageFinished
    from zoo.events import StageStarted as StageStarted
    from zoo.hooks import hookimpl as hookimpl
    from zoo.kept import kept_json as kept_json
    from zoo.model.measure import measure as measure
    from zoo.model.undrawn import undrawn as undrawn
    from zoo.model.weights import load_weights as load_weights
    from zoo.preprocessing import Preprocessing as Preprocessing
    from zoo.recipes import RecipeSpec as RecipeSpec
    from zoo.recipes import recipe_from_toml as recipe_from_toml
    from zoo.registry.registry import Registry as Registry
    from zoo.source_listing import Skipped as Skipped
    from zoo.source_listing import SourceImage as SourceImage
    from zoo.source_listing import SourceListing as SourceListing
    from zoo.source_listing import is_image_name as is_image_name
    from zoo.source_listing import list_class_folders as list_class_folders
    from zoo.source_listing import split_named as split_named
    from zoo.specs import Backbone as Backbone
    from zoo.specs import BackboneFacts as BackboneFacts
    from zoo.specs import BackboneProvider as BackboneProvider
    from zoo.specs import BackboneSpec as BackboneSpec
    from zoo.specs import DataSourceSpec as DataSourceSpec
    from zoo.specs import FeatureShape as FeatureShape
    from zoo.specs import Group as Group
    from zoo.specs import HeadSpec as HeadSpec
    from zoo.specs import HubFile as HubFile
    from zoo.specs import NoOptions as NoOptions
    from zoo.specs import ObserverSpec as ObserverSpec
    from zoo.specs import UrlFile as UrlFile
    from zoo.specs import WeightsSpec as WeightsSpec
    from zoo.training.result import Result as Result

_HOME = {
    "check_data": "zoo.api",
    "compare": "zoo.api",
    "create_model": "zoo.api",
    "evaluate": "zoo.api",
    "export": "zoo.api",
    "fetch_weights": "zoo.api",
    "finetune": "zoo.api",
    "import_weights": "zoo.api",
    "list_backbones": "zoo.api",
    "list_data_sources": "zoo.api",
    "list_heads": "zoo.api",
    "list_recipes": "zoo.api",
    "list_weights": "zoo.api",
    "load": "zoo.api",
    "plan": "zoo.api",
    "pull": "zoo.api",
    "push": "zoo.api",
    "report": "zoo.api",
    "verify": "zoo.api",
    "verify_weights": "zoo.api",
    "Classifier": "zoo.artefact.classifier",
    "Prediction": "zoo.artefact.classifier",
    "Comparison": "zoo.comparing.comparison",
    "DataReport": "zoo.data.checking.report",
    "DataError": "zoo.errors",
    "WeightsMismatch": "zoo.errors",
    "ZooError": "zoo.errors",
    "draw_confusion": "zoo.evaluation.confusion_image",
    "BatchFinished": "zoo.events",
    "CheckpointSaved": "zoo.events",
    "EpochFinished": "zoo.events",
    "EpochStarted": "zoo.events",
    "Event": "zoo.events",
    "Note": "zoo.events",
    "RunFinished": "zoo.events",
    "RunStarted": "zoo.events",
    "RunStopped": "zoo.events",
    "StageFinished": "zoo.events",
    "StageStarted": "zoo.events",
    "hookimpl": "zoo.hooks",
    "kept_json": "zoo.kept",
    "measure": "zoo.model.measure",
    "undrawn": "zoo.model.undrawn",
    "load_weights": "zoo.model.weights",
    "Preprocessing": "zoo.preprocessing",
    "RecipeSpec": "zoo.recipes",
    "recipe_from_toml": "zoo.recipes",
    "Registry": "zoo.registry.registry",
    "Skipped": "zoo.source_listing",
    "SourceImage": "zoo.source_listing",
    "SourceListing": "zoo.source_listing",
    "is_image_name": "zoo.source_listing",
    "list_class_folders": "zoo.source_listing",
    "split_named": "zoo.source_listing",
    "Backbone": "zoo.specs",
    "BackboneFacts": "zoo.specs",
    "BackboneProvider": "zoo.specs",
    "BackboneSpec": "zoo.specs",
    "DataSourceSpec": "zoo.specs",
    "FeatureShape": "zoo.specs",
    "Group": "zoo.specs",
    "HeadSpec": "zoo.specs",
    "HubFile": "zoo.specs",
    "NoOptions": "zoo.specs",
    "ObserverSpec": "zoo.specs",
    "UrlFile": "zoo.specs",
    "WeightsSpec": "zoo.specs",
    "Result": "zoo.training.result",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("zoo-registry")
    if name not in _HOME:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
