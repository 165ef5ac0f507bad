"""A ComfyUI core in this process, and one server for all tests; where there can be none, tests say why."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from core import HERE, Unavailable, inside
from paths import TESTS

ASK = """guards:
  - method: clarify
    concept: {name: weapons, prompts: [gun]}
    words: {shot: {a photograph: [camera], a gunshot: [gun]}}
    unsure: false
    gate: always
"""


@pytest.fixture(scope="module")
def comfy() -> Iterator[None]:
    """Makes ``comfy`` importable, here alone: its torchvision is none that processes of other tests could import."""
    before = list(sys.path)
    try:
        inside()
    except Unavailable as why:
        pytest.skip(f"no ComfyUI core here: {why}")
    from sampling import bare_of

    yield
    bare_of.cache_clear()
    sys.path[:] = before


@pytest.fixture(scope="session")
def loaded() -> Iterator[list[Any]]:
    """What one file loaded for all that follow: no test leaves anything on it."""
    found: list[Any] = []
    yield found
    found.clear()  # while there is still a ComfyUI for its last words


@pytest.fixture(scope="module")
def bare(comfy: None, loaded: list[Any]) -> Any:
    """The embedded model without guards, whose samplings are drawn once."""
    from sampling import Bare

    from conceptguard.hosts.comfyui.load import load_parts

    if not loaded:
        loaded.append(Bare(load_parts("emoji-sd")))
    return loaded[0]


@pytest.fixture(scope="module")
def parts(bare: Any) -> Any:
    """The embedded model as MODEL, CLIP, VAE."""
    return bare.parts


@pytest.fixture(autouse=True)
def nothing_left_on_the_model(request: pytest.FixtureRequest) -> Iterator[None]:
    """Between two samplings a model has no hook and no stand-in of ours."""
    yield
    if "parts" not in request.fixturenames:
        return
    parts = request.getfixturevalue("parts")
    for module in (*parts.model.model.modules(), *parts.clip.cond_stage_model.modules()):
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        assert not hooks and "forward" not in vars(module), f"left on a {type(module).__name__}"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server that has the pack, installed as a user does."""
    from probes import red_probe
    from server import install, serving

    folder = tmp_path_factory.mktemp("comfyui")
    install(folder)
    shutil.copytree(HERE / "tinyxl", folder / "custom_nodes" / "tinyxl")
    red_probe(folder / "registry")
    (folder / "models" / "conceptguard").mkdir(parents=True)
    (folder / "models" / "conceptguard" / "broken.yaml").write_text("guards:\n  - {method: smp}\n")
    (folder / "models" / "conceptguard" / "ask.yaml").write_text(ASK)
    variables = {"CONCEPTGUARD_HOME": str(folder / "registry"), "CONCEPTGUARD_TESTS": str(TESTS)}
    try:
        with serving(folder, **variables) as port:
            yield port
    except Unavailable as why:
        pytest.skip(f"no ComfyUI core here: {why}")


@pytest.fixture
def client(server: int) -> Iterator[Any]:
    from server import Client

    found = Client(server)
    yield found
    found.socket.close()
