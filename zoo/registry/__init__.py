"""Who offers what: plugins found, loaded one by one, and what their names mean. Nothing here imports torch."""

from zoo.registry.names import Backbones, ResolvedBackbone
from zoo.registry.plugins import Contribution, Plugin, PluginState
from zoo.registry.registry import Registry, default_registry

__all__ = ["Backbones", "Contribution", "Plugin", "PluginState", "Registry", "ResolvedBackbone", "default_registry"]
