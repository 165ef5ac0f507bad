"""Prompt guards and image checks act on a plain function, and the host keeps what every host promises."""

import zlib

import numpy as np
import torch
from conceptguard_function_host import Painter

import conceptguard
from conceptguard.testing import host_tests


def paint(prompt: str, seed: int) -> np.ndarray:
    """Noise that depends on the prompt: what it draws does not matter here."""
    noise = np.random.default_rng([zlib.crc32(prompt.encode()), seed])
    return noise.integers(0, 256, (32, 32, 3), dtype=np.uint8)


def draw(painter: Painter, prompts, seeds) -> torch.Tensor:
    pictures = [painter(prompt, seed) for prompt, seed in zip(prompts, seeds)]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


test_contract = host_tests(load=lambda: Painter(paint), draw=draw)


def test_a_clarifying_question_comes_before_the_picture() -> None:
    policy = {
        "guards": [{
            "method": "clarify", "concept": {"name": "weapons", "prompts": ["gun"]}, "unsure": False, "gate": "always",
            "words": {"shot": {"a photograph": ["camera"], "a gunshot": ["gun"]}},
        }]
    }  # fmt: skip
    painter = Painter(paint)
    with conceptguard.attach(painter, policy):
        try:
            painter("a shot at the beach")
        except conceptguard.ConceptGuardError as question:
            assert "a photograph" in str(question)
        else:
            raise AssertionError("an ambiguous prompt was drawn")
        assert (painter("a dog", 3) == paint("a dog", 3)).all()


def test_a_guard_that_needs_a_model_says_so() -> None:
    policy = {"guards": [{"method": "sld", "concept": {"name": "beer", "prompts": ["beer"]}}]}
    try:
        conceptguard.attach(Painter(paint), policy)
    except conceptguard.ConceptGuardError as error:
        assert "text encoder" in str(error) and "function paint" in str(error)
    else:
        raise AssertionError("a guard was attached that could not act")
