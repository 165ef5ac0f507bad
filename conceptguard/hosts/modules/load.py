"""The embedded modules: classifiers with the examples they were trained on, a GAN's generator, a net over a graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ...errors import RegistryError
from ...files.atomic import read_limited
from ...making.examples import MARK
from .generator import Generator
from .graph import LinkNet
from .nets import NETS

GENERATOR, GRAPH = "generator.json", "graph.json"


def is_classifier(folder: Path) -> bool:
    """Whether a folder is of an embedded classifier."""
    config = folder / "config.json"
    # A captioner comes with examples as well.
    return (folder / MARK).is_file() and config.is_file() and "nets" in json.loads(read_limited(config, 64 * 1024))


def load_classifier(name: str, folder: Path, options: dict[str, Any]) -> nn.Module:
    """The net of a folder, in evaluation mode, with ``name``, ``folder`` and ``classes`` as attributes.

    options: ``variant`` names another of its nets, such as "vit"; ``torch_dtype``. Raises RegistryError for a variant
    that is not there, and for damaged weights.
    """
    said = json.loads(read_limited(folder / "config.json", 64 * 1024))
    variant = options.get("variant") or said["default"]
    if variant not in said["nets"]:
        raise RegistryError(f"model '{name}' has no net '{variant}': give one of {', '.join(said['nets'])}")
    own = said["nets"][variant]
    net = NETS[own["architecture"]](len(said["classes"]))
    _read_weights(net, folder / own["weights"], options)
    suffix = "" if variant == said["default"] else f"-{variant}"
    net.name, net.folder, net.classes = f"{folder.name}{suffix}", folder, said["classes"]  # type: ignore[assignment]
    return net


def is_generator(folder: Path) -> bool:
    """Whether a folder is of an embedded GAN."""
    return (folder / GENERATOR).is_file()


def load_generator(name: str, folder: Path, options: dict[str, Any]) -> nn.Module:
    """The generator of a folder, in evaluation mode, with ``name``, ``folder``, ``object_names`` and ``style_names`` as
    attributes. options: ``torch_dtype``. Raises RegistryError for damaged weights, and for a variant: it has none.
    """
    said = json.loads(read_limited(folder / GENERATOR, 64 * 1024))
    if options.get("variant"):
        raise RegistryError(f"model '{name}' has no net '{options['variant']}': it has one only, leave variant out")
    net = Generator(len(said["objects"]), len(said["styles"]), **said["generator"])
    _read_weights(net, folder / "model.safetensors", options)
    net.name, net.folder = folder.name, folder  # type: ignore[assignment]
    net.object_names, net.style_names = said["objects"], said["styles"]
    return net


def is_graph(folder: Path) -> bool:
    """Whether a folder is of an embedded net over a graph."""
    return (folder / GRAPH).is_file()


def load_graph(name: str, folder: Path, options: dict[str, Any]) -> nn.Module:
    """The net of a folder, in evaluation mode, with ``name``, ``folder``, ``test`` (edges that were kept back) and
    ``forget`` (sets that are judged) as attributes. options: ``torch_dtype``. Raises RegistryError as
    ``load_generator``, and where torch_geometric is not installed."""
    said = json.loads(read_limited(folder / GRAPH, 1024 * 1024))
    if options.get("variant"):
        raise RegistryError(f"model '{name}' has no net '{options['variant']}': it has one only, leave variant out")
    tensors = _tensors(folder / "model.safetensors")
    if not {"edges", "test"} <= tensors.keys():
        raise _damaged(folder / "model.safetensors", RuntimeError("it has no edges"))
    edges, test = tensors.pop("edges"), tensors.pop("test")
    net = LinkNet(said["emoji"], said["keywords"], edges)
    _fill(net, folder / "model.safetensors", tensors, options)
    net.name, net.folder = folder.name, folder  # type: ignore[assignment]
    net.test, net.forget = test.long(), said["forget"]
    return net


def _read_weights(net: nn.Module, path: Path, options: dict[str, Any]) -> None:
    """Into a net, which is then in evaluation mode and takes no gradients."""
    _fill(net, path, _tensors(path), options)


def _fill(net: nn.Module, path: Path, tensors: dict[str, Tensor], options: dict[str, Any]) -> None:
    try:
        net.load_state_dict({key: one.float() if one.is_floating_point() else one for key, one in tensors.items()})
    except RuntimeError as error:
        raise _damaged(path, error) from None
    net.to(options.get("torch_dtype") or torch.float32).eval().requires_grad_(False)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> RegistryError:
    return RegistryError(f"{path}: not the weights of this net ({str(error).splitlines()[0]}): pull it again")
