"""Edits in closed form on every base: what its keys and values do, what stays, what is named when it cannot be done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.diffusion.uce import UCE
from random_artifacts import terms_of
from tiny import generate as draw
from tiny import tiny_sd, tiny_sdxl
from tiny_transformers import generate, tiny_flux, tiny_sd3, tiny_wan
from torch import Tensor

import conceptguard
from conceptguard.concept import as_concept
from conceptguard.errors import ArtifactError, PolicyError
from conceptguard.making.edits import Edit, read_rows, solve, streams_of, tensors_of, wordings
from conceptguard.making.edits.rows import Span, paired
from conceptguard.making.maker import write
from conceptguard.making.settings import make_settings
from conceptguard.making.task import Task
from conceptguard.plugins import host_for
from conceptguard.registry import Artifact
from conceptguard.runtime.lowrank import LayerIndex

BASES: dict[str, Callable[..., Any]] = {
    "sd": tiny_sd, "sdxl": tiny_sdxl, "sd3": tiny_sd3, "flux": tiny_flux, "wan": tiny_wan,
}  # fmt: skip
# The layers whose outputs are keys and values of text: the first of each base.
KEYS = {
    "sd": r"attn2.to_k", "sdxl": "attn2.to_k", "sd3": "attn.add_k_proj", "flux": "attn.add_k_proj", "wan": "attn2.to_k"
}  # fmt: skip
OWN, GUIDE, KEPT = "a cigarette", "a horse", "a red apple on a table"
CONCEPT = {"name": "cigarette", "prompts": [OWN], "replacement": GUIDE}


@pytest.fixture(params=BASES)
def base(request: pytest.FixtureRequest, tokenizer: Any) -> tuple[str, Any]:
    """A name, and a tiny pipeline with random weights."""
    return request.param, BASES[request.param](tokenizer)


@contextmanager
def heard(pipe: Any, name: str) -> Iterator[list[Tensor]]:
    """What every call makes of its text, at the end of the prompts' part: keys, values, and pooled vectors."""
    seen: list[Tensor] = []
    part = "unet" if hasattr(pipe, "unet") else "transformer"
    layers = LayerIndex({part: getattr(pipe, part)})
    key = next(n for n in layers if n.endswith(KEYS[name]))
    names = [key, key.replace("k_proj", "v_proj").replace("to_k", "to_v"), *_pooled(layers)]
    hooks = [layers[n].register_forward_hook(lambda m, a, out: seen.append(out.detach().clone())) for n in names]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _pooled(layers: Any) -> list[str]:
    return [n for n in layers if n.endswith(("add_embedding.linear_1", "time_text_embed.text_embedder.linear_1"))]


def listen(pipe: Any, name: str, prompt: str) -> list[Tensor]:
    """Keys and values [positions, width] and the pooled layer's output [1, width] of a prompt."""
    with heard(pipe, name) as seen:
        if name in ("sd", "sdxl"):
            draw(pipe, [prompt], guidance_scale=1.0, num_inference_steps=1)
        else:
            off = {} if name == "flux" else {"guidance_scale": 1.0}
            # As long as the edit was made for: T5 sees how far a text is padded.
            length = 256 if name == "sd3" else 512
            generate(pipe, [prompt], num_inference_steps=1, max_sequence_length=length, **off)
    return [t.double().view(-1, t.shape[-1]) for t in seen]


def last_of(pipe: Any, heard: list[Tensor], text: str) -> list[Tensor]:
    """What is said at the last token of a text, by each encoder's part; pooled vectors as they are."""
    places = [
        (e.tokens.start or 0) + e.positions([len(e.ids([text])[0]) - 1])[0]
        for e in host_for(pipe).encoders()
        if e.width is not None
    ]
    return [t if len(t) == 1 else t[places] for t in heard]


def made(pipe: Any, folder: Path, **options: Any) -> Artifact:
    """An edit without its gate measured, which takes a hundred times as long."""
    settings = make_settings(UCE, options)
    task = Task(host_for(pipe), as_concept(CONCEPT), [KEPT], settings, 0, folder / "edit", "uce", shown=False)
    learned = UCE.learn(task)
    learned.opens = None
    return write(UCE, task, learned)


def off(a: list[Tensor], b: list[Tensor]) -> list[float]:
    """Relative distances."""
    return [float((x - y).norm() / y.norm()) for x, y in zip(a, b, strict=True)]


def always(artifact: Artifact) -> dict[str, Any]:
    return {"name": "t", "guards": [{"method": "uce", "artifact": str(artifact.folder), "gate": "always"}]}


def test_the_concept_says_what_its_guide_says(base: tuple[str, Any], tmp_path: Path) -> None:
    """At its last token: keys, values and what becomes of the pooled vector. The kept text keeps its own."""
    name, pipe = base
    bare = {text: last_of(pipe, listen(pipe, name, text), text) for text in (OWN, GUIDE, KEPT)}
    with conceptguard.attach(pipe, always(made(pipe, tmp_path, tokens="last", lamb=1e-6))):
        guarded = {text: listen(pipe, name, text) for text in (OWN, KEPT)}
    guarded = {text: last_of(pipe, heard, text) for text, heard in guarded.items()}
    assert len(bare[OWN]) == (2 if name in ("sd", "wan") else 3)
    assert min(off(bare[OWN], bare[GUIDE])) > 0.2 and max(off(guarded[OWN], bare[GUIDE])) < 1e-3
    assert min(off(bare[KEPT], bare[GUIDE])) > 0.2 and max(off(guarded[KEPT], bare[KEPT])) < 1e-3


@pytest.mark.parametrize("name", ["sd", "sdxl", "wan"])
def test_whole_tails_say_what_the_guides_say(name: str, tokenizer: Any, tmp_path: Path) -> None:
    """Every position, as far as 77 rows a text fit into 32 dimensions."""
    pipe = BASES[name](tokenizer)
    bare = {text: listen(pipe, name, text) for text in (OWN, GUIDE, KEPT)}
    with conceptguard.attach(pipe, always(made(pipe, tmp_path, lamb=1e-4))):
        erased, kept = listen(pipe, name, OWN), listen(pipe, name, KEPT)
    before, after, moved = off(bare[OWN], bare[GUIDE]), off(erased, bare[GUIDE]), off(kept, bare[KEPT])
    assert all(a < 0.25 * b and m < 0.25 * b for b, a, m in zip(before, after, moved, strict=True))


def test_rows_that_the_concept_is_not_in_are_left_alone(tokenizer: Any, tmp_path: Path) -> None:
    """A gate for each row, at the layer of pooled vectors as well."""
    pipe = tiny_sdxl(tokenizer)
    artifact = UCE.make(host_for(pipe), CONCEPT, tmp_path, preserve=[KEPT], tokens="last")
    assert "unet.add_embedding.linear_1" in terms_of(artifact, pipe)
    bare = draw(pipe, [KEPT, OWN])
    with conceptguard.attach(pipe, {"name": "t", "guards": [{"method": "uce", "artifact": str(artifact.folder)}]}):
        got = draw(pipe, [KEPT, OWN])
    assert torch.equal(got[0], bare[0]) and not torch.allclose(got[1], bare[1], atol=1e-4)


def test_time_ids_beside_the_pooled_vector_are_not_edited(tokenizer: Any, tmp_path: Path) -> None:
    pipe = tiny_sdxl(tokenizer)
    down = terms_of(made(pipe, tmp_path), pipe)["unet.add_embedding.linear_1"].down
    width = host_for(pipe).encode([OWN]).pooled.shape[1]
    assert down.shape[1] == pipe.unet.add_embedding.linear_1.in_features > width
    assert down[:, :width].any() and not down[:, width:].any()


def test_where_both_ways_are_seen_all_tokens_are_erased() -> None:
    """ "in a red apple", padded to 8, where the guide is "in milk", and where it has no words."""
    own, guide, nothing = Span(1, 3), Span(1, 1), Span(1, 0)
    here, there = paired(8, own, guide, "tail", causal=False)
    assert here.tolist() == [1, 2, 3, 4, 5, 6, 7] and there.tolist() == [1, 1, 1, 2, 3, 4, 5]
    assert paired(8, own, nothing, "tail", causal=False)[1].tolist() == [0, 0, 0, 1, 2, 3, 4]
    assert [p.tolist() for p in paired(8, own, guide, "last", causal=False)] == [[3], [1]]
    assert [p.tolist() for p in paired(8, own, guide, "tail", causal=True)] == [[3, 4, 5, 6, 7], [1, 2, 3, 4, 5]]


@pytest.mark.parametrize(
    ("concept", "kept", "says"),
    [
        ({"name": "x", "prompts": [","]}, [], "has no tokens"),
        (CONCEPT, ["A  Cigarette"], "cannot be kept and erased|same tokens"),
        (
            {"name": "x", "prompts": ["caf\u00e9"]},
            ["cafe\u0301"],
            "'caf\u00e9' is to be erased and 'cafe\u0301' to be kept",
        ),
        ({"name": "x", "prompts": ["smoke " * 80]}, [], "window"),
        ({"name": "x", "prompts": ["smoke"], "replacement": "smoke"}, [], "changes nothing"),
    ],
)
def test_what_cannot_be_erased_is_named(
    concept: dict[str, Any], kept: list[str], says: str, tokenizer: Any, tmp_path: Path
) -> None:
    with pytest.raises((PolicyError, ArtifactError), match=says) as raised:
        UCE.make(host_for(tiny_sd(tokenizer)), concept, tmp_path, preserve=kept)
    assert "\n" not in str(raised.value) and not any(tmp_path.iterdir())


def test_a_model_without_such_layers_is_named(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    host = host_for(tiny_sd(tokenizer))
    weights = {n: m for n, m in host.layers().items() if "attn2" not in n}
    monkeypatch.setattr(host, "layers", lambda: LayerIndex.named(weights))
    with pytest.raises(ArtifactError, match="none of the layers"):
        streams_of(host)


def test_channels_that_say_nothing_are_left_out_of_an_edit() -> None:
    pipe = conceptguard.load_model("emoji-flow")  # SD 3 pads what two small CLIPs say to 4,096 channels
    host = host_for(pipe)
    states = next(stream for stream in streams_of(host) if stream.kind == "states")
    width = host.encode([""]).embeds.shape[-1]
    said = sum(encoder.config.hidden_size for encoder in (pipe.text_encoder, pipe.text_encoder_2))
    assert states.channels.tolist() == list(range(said)) and said < width
    assert all(weight.shape[1] == said for weight in states.weights.values())
    words = wordings(as_concept(CONCEPT), ["{}"])
    rows = read_rows(host, words, [KEPT], "tail")["states"]
    assert {part.shape[1] for part in rows} == {said}
    edit = solve(rows, 0.5)
    tensors, _ = tensors_of({"states": edit}, [states])
    for name, part in (("states.edit.down", edit.down), ("states.edit.shift", edit.shift)):
        assert torch.equal(tensors[name], part.float())
    gap = states._replace(channels=torch.tensor([0, 2]))
    tensors, _ = tensors_of({"states": Edit(*torch.eye(2).expand(2, 2, 2))}, [gap])
    assert tensors["states.edit.down"].tolist() == [[1, 0, 0], [0, 0, 1]]


def test_of_many_texts_only_rows_are_kept(tokenizer: Any) -> None:
    host = host_for(tiny_sd(tokenizer))
    kept = [f"{n} apples" for n in range(150)]  # more than are encoded at once
    rows = read_rows(host, wordings(as_concept(CONCEPT), ["{}", "a photo of {}"]), kept, "last")["states"]
    asked = host.encode([kept[149]])
    assert torch.equal(rows.preserved[149], asked.embeds[0, len(asked.ids[0])])
    assert len(rows.erased) == len(rows.guide) == 2 and len(rows.preserved) == 150
