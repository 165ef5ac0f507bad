"""Shared fixtures: the embedded model, loaded once, tiny pipelines, and a watch that no test leaves a guard behind."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Files whose tests share ComfyUI's server go to one worker: starting it takes longer than most of them."""
    from xdist.scheduler import LoadFileScheduling

    class OneServer(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = Path(super()._split_scope(nodeid))
            served = "comfyui" in str(file) and file.stem.rpartition("_")[2] in ("server", "page", "workflows")
            return "one server" if served else str(file)

    return OneServer(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(scope="module", autouse=True)
def imports_are_no_garbage() -> None:
    """Half a million objects of imported modules are not looked through by every collection of the tests that follow.

    What a test makes is looked through as before: "nothing refers to the session any more" is asked of that alone.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What encoders were measured to say before is not in the user's cache, nor another test file's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONCEPTGUARD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def pipe() -> Any:
    """The embedded model in fp32 on the CPU, without progress bars."""
    from conceptguard.testing import embedded_model

    return embedded_model()


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """CLIP's tokenizer, from the embedded model."""
    from tiny import clip_tokenizer

    return clip_tokenizer()


@pytest.fixture(scope="session")
def suite() -> Any:
    """What language models are asked, and who there is."""
    from conceptguard.measuring.language.suite import load_language_suite

    return load_language_suite()


@pytest.fixture(scope="session")
def pair() -> Any:
    """The embedded language model that knows all authors, and its tokenizer: the one that contracts are judged on."""
    from conceptguard.testing.text_bench import embedded_language_model

    return embedded_language_model()


@pytest.fixture
def tiny(tokenizer: Any) -> Any:
    """A tiny Stable Diffusion pipeline with random weights, new for each test."""
    from tiny import tiny_sd

    return tiny_sd(tokenizer)


@pytest.fixture
def policy(tiny: Any, tmp_path: Path) -> dict[str, Any]:
    """A random membrane for the tiny pipeline that opens on "cigarette"."""
    from random_artifacts import membrane

    return {"name": "test", "guards": [membrane(tmp_path, tiny)]}


@pytest.fixture
def tiny_xl(tokenizer: Any) -> Any:
    """A tiny SDXL pipeline with random weights, new for each test."""
    from tiny import tiny_sdxl

    return tiny_sdxl(tokenizer)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Batches of one or two rows gain nothing from a second thread, and lose much to it on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def nothing_left_attached(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that uses a pipeline gives it back as it was: its own class, no hooks."""
    names = {"pipe", "tiny", "tiny_xl"} & set(request.fixturenames)
    pipelines = {name: request.getfixturevalue(name) for name in names}
    yield
    for name, used in pipelines.items():
        assert not hasattr(used, "_conceptguard"), f"a guard is still attached to '{name}'"
        hooked = [
            path
            for component in (used.unet, used.text_encoder, used.vae)
            for path, module in component.named_modules()
            for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
            if getattr(hook, "__module__", "").startswith(
                "conceptguard"
            )  # transformers keeps hooks of its own on encoders
        ]
        assert not hooked, f"hooks are left on {hooked[:3]}"
