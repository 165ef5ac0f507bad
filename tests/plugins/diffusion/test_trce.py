"""TRCE's first stage: the authors' numbers, positions by tokens, every base; and both stages in one guard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.diffusion.trce.make import TRCEMakeSettings, solved
from conceptguard_plugins.diffusion.trce.method import TRCE, nearer
from conceptguard_plugins.diffusion.trce.places import Weights, places, weighed, words_places
from paths import DATA
from random_artifacts import terms_of
from safetensors.torch import load_file
from tiny import generate, tiny_sd, tiny_sdxl
from tiny_transformers import tiny_flux, tiny_sd3, tiny_wan

import conceptguard
from conceptguard.concept import as_concept
from conceptguard.errors import PolicyError
from conceptguard.making.edits import Rows, Wording, edited, streams_of, wordings
from conceptguard.making.settings import make_settings
from conceptguard.making.task import Learned, Task
from conceptguard.plugins import host_for
from conceptguard.registry import Artifact

PARITY = load_file(DATA / "parity_trce.safetensors")
CONCEPT = {"name": "cigarette", "prompts": ["a cigarette"], "replacement": "a horse"}
KEPT = "a red apple on a table"
BASES: list[Callable[..., Any]] = [tiny_sd, tiny_sdxl, tiny_sd3, tiny_flux, tiny_wan]


def learnt(pipe: Any, **options: Any) -> Learned:
    """A solved edit, without its gate measured."""
    concept, settings = as_concept(CONCEPT), make_settings(TRCE, options)
    return TRCE.learn(Task(host_for(pipe), concept, [KEPT], settings, 0, Path("."), "trce", shown=False))


@pytest.mark.parametrize(
    ("name", "weights"), [("end", Weights()), ("all", Weights(0.5, 1.0, 0.01, 0.2))], ids=["end", "all"]
)
def test_the_authors_numbers(name: str, weights: Weights) -> None:
    """Their functions on the same tensors; words of one token each, where both ways of counting agree."""
    words = [
        Wording("a photo of {}", "knife", ""),
        Wording("an image of {} now", "kitchen knife", ""),
    ]
    own, safe = ([PARITY[f"embeds.{i}"] for i in some] for some in ((0, 2), (1, 3)))
    pairs = [weighed(a, b, where) for a, b, where in zip(own, safe, words_places(words, 77, weights))]
    rows = Rows(torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs]), PARITY["keep"])
    # Two texts, five to keep, 0.5 squared as their code has it.
    edit = solved(rows, 0.0, 0.5**2 * 2 / 5)
    kinds = [f"{i}.{kind}" for i in range(2) for kind in ("to_k", "to_v")]
    ups = edited(edit, {kind: PARITY[f"{kind}.weight"] for kind in kinds})
    for kind in kinds:
        old, theirs = PARITY[f"{kind}.weight"], PARITY[f"{name}.{kind}"]
        ours = old + (ups[kind] @ edit.down).float()
        assert (ours - theirs).norm() < 1e-4 * theirs.norm() and (old - theirs).norm() > 0.1 * theirs.norm()


def test_positions_are_counted_in_tokens(tiny: Any) -> None:
    """A word of several tokens moves everything behind it, which the authors' code misses."""
    (encoder,) = host_for(tiny).encoders()
    word = "xylographically"
    (text,) = wordings(as_concept({"name": "x", "prompts": [word]}), ["a photo of {a}, please"])
    n = len(encoder.ids([word])[0])
    assert n > 1
    (found,) = places(encoder, [text], 77, Weights(1.0, 1.0, 1.0, 1.0))
    ids = [49406, *encoder.ids([text.own])[0], 49407]
    assert found[0].own == 0 and ids[found[1].own] == 49407 and len(ids) == found[1].own + 1
    guide = [49406, *encoder.ids([text.guided])[0], 49407]
    assert len(guide) == found[1].guide + 1
    assert found[2] == (76, 76, 76.0 - found[1].own)
    assert [ids[place.own] for place in found[3:]] == encoder.ids([word])[0]
    (theirs,) = words_places([text], 77, Weights())
    assert theirs[0].own < found[1].own


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.__name__)
def test_the_end_token_reads_as_the_safe_ones_on_every_base(base: Any, tokenizer: Any) -> None:
    """What each layer makes of it, and of a whole text to keep."""
    pipe = base(tokenizer)
    host, terms = host_for(pipe), terms_of(learnt(pipe, templates=["{}"]), pipe)
    encoded = host.encode([CONCEPT["prompts"][0], CONCEPT["replacement"], KEPT])
    for stream in streams_of(host):
        if stream.kind == "pooled":
            own, safe, stays = encoded.pooled[:1], encoded.pooled[1:2], encoded.pooled[2:]
        else:
            run = next(e for e in host.encoders() if e.width is not None)
            first, second = (len(run.ids([text])[0]) + run.begins for text in ("a cigarette", "a horse"))
            own, safe, stays = encoded.embeds[0, [first]], encoded.embeds[1, [second]], encoded.embeds[2]
        for name, weight in stream.weights.items():
            new = weight.double() + terms[name].up.double() @ terms[name].down[:, : weight.shape[1]].double()
            a, b, c = (x.double() for x in (own, safe, stays))
            old = weight.double().T
            assert (a @ new.T - b @ old).norm() < 0.1 * (a @ old - b @ old).norm(), name
            assert (c @ new.T - c @ old).norm() < 0.25 * (c @ old).norm(), name


@pytest.fixture(scope="module")
def made(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Artifact]:
    pipe = tiny_sd(tokenizer)
    folder = tmp_path_factory.mktemp("trce")
    return pipe, TRCE.make(host_for(pipe), CONCEPT, folder, preserve=[KEPT], progress=False)


def rules(artifact: Artifact, **settings: Any) -> dict[str, Any]:
    return {"guards": [{"method": "trce", "artifact": str(artifact.folder), **settings}]}


def test_both_stages_in_one_guard(made: tuple[Any, Artifact]) -> None:
    """Terms and steering open together, each of them changes the picture, and other rows stay as they are."""
    pipe, artifact = made
    assert artifact.manifest.settings == {"nearer": True}
    prompts = ["a red apple", "a photo of a cigarette"]
    bare = generate(pipe, prompts)
    found = []
    for settings in ({"scale": 0}, {"nearer": False}, {}):
        with conceptguard.attach(pipe, rules(artifact, **settings)) as session:
            found.append(generate(pipe, prompts))
            act = session.receipt.acts[0]
            assert [bool(gate) for gate in act.gates] == [False, False, False, True]
            assert act.steps == [0, 1]
        assert torch.equal(found[-1][0], bare[0]) and not torch.allclose(found[-1][1], bare[1], atol=1e-3)
    assert not torch.allclose(found[0][1], found[1][1], atol=1e-3)


def test_the_first_stage_alone_needs_no_guidance(made: tuple[Any, Artifact]) -> None:
    pipe, artifact = made
    bare = generate(pipe, "a cigarette", guidance_scale=1.0)
    with conceptguard.attach(pipe, rules(artifact, scale=0)):
        assert not torch.allclose(generate(pipe, "a cigarette", guidance_scale=1.0), bare, atol=1e-3)


def test_only_predictions_that_are_nearer_to_the_concept_are_turned() -> None:
    safe, concept = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    mixed = torch.cat([concept, safe, 0.6 * concept + 0.4 * safe, 0.4 * concept + 0.6 * safe])
    found = nearer(mixed, concept.expand(4, -1, -1, -1), safe.expand(4, -1, -1, -1))
    assert found.tolist() == [True, False, True, False]


def test_without_artifact_and_scale_nothing_would_be_guarded(tiny: Any) -> None:
    with (
        pytest.raises(PolicyError, match=r"scale: 0 guards nothing.*make trce"),
        conceptguard.attach(tiny, {"guards": [{"method": "trce", "concept": CONCEPT, "scale": 0}]}),
    ):
        pass


def test_templates_need_a_place() -> None:
    assert all("{}" in text or "{a}" in text for text in TRCEMakeSettings().templates)
