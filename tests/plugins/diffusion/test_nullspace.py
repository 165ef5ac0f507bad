"""Null-space edits: what must stay does not move, and the concept does; what does not fit is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.diffusion.nullspace import Nullspace, held_rows
from random_artifacts import terms_of
from tiny import tiny_sd, tiny_sdxl
from tiny_transformers import tiny_flux, tiny_sd3, tiny_wan
from torch import Tensor

from conceptguard.concept import as_concept
from conceptguard.errors import PolicyError
from conceptguard.formats import read_terms
from conceptguard.making.edits import Problem, directions, how_many_fit, read_rows, streams_of
from conceptguard.making.task import Learned, Task
from conceptguard.measuring.suite import load_suite
from conceptguard.plugins import host_for, method

PISTOL = {"name": "pistol", "prompts": ["pistol", "gun"], "replacement": "flower"}


def learnt(pipe: Any, keep: list[str], name: str = "nullspace", **options: Any) -> tuple[Learned, Problem]:
    maker = method(name)
    settings = maker.MakeSettings(**options)
    task = Task(host_for(pipe), as_concept(PISTOL), keep, settings, 0, Path("pistol"), name, shown=False)
    return maker.learn(task), Problem.of(task, settings.templates, settings.tokens)


def changes(learned: Learned, pipe: Any, rows: dict[Any, Tensor]) -> dict[str, Tensor]:
    """How far each row's output moves in every layer, relative to itself, with the artifact's own fp32 numbers."""
    found, terms = {}, terms_of(learned, pipe)
    for stream in streams_of(host_for(pipe)):
        for name, weight in stream.weights.items():
            x = rows[stream.kind].float()
            moved = x @ terms[name].down[:, : weight.shape[1]].T @ terms[name].up.T
            found[name] = moved.norm(dim=1) / (x @ weight.float().T).norm(dim=1)
    return found


def others() -> list[str]:
    """Seventy other things that the embedded model draws, by their names: more than half of what the width holds."""
    return [it.name for it in load_suite("emoji-sd").objects if it.name != "pistol"][:70]


def test_what_must_stay_does_not_move(pipe: Any) -> None:
    """Seventy concepts' keys and values in every layer; those of the pistol go to the flower's, beside UCE as control,
    which erases and moves what stays a thousand times as far."""
    keep = others()
    host = host_for(pipe)
    rows = {kind: rows.preserved for kind, rows in read_rows(host, [], keep, "last").items()}
    assert len(rows["states"]) > 64
    learned, problem = learnt(pipe, keep)
    moved = changes(learned, pipe, rows)
    assert max(float(one.max()) for one in moved.values()) < 1e-5
    assert learned.made["moved"]["states"] < 1e-5 and 0 < learned.made["free"]["states"] < 64
    uce = changes(learnt(pipe, keep, "uce")[0], pipe, rows)
    assert min(float(one.max()) for one in uce.values()) > 1e-2
    erased, guide = problem.rows["states"].erased, problem.rows["states"].guide
    terms = terms_of(learned, pipe)
    for name, weight in problem.streams[0].weights.items():
        down, up, _ = terms[name]
        now = erased @ weight.T + erased @ down.T @ up.T
        assert (now - guide @ weight.T).norm() < 0.5 * ((erased - guide) @ weight.T).norm()


@pytest.mark.parametrize("make", [tiny_sdxl, tiny_sd3, tiny_flux, tiny_wan])
def test_on_every_base(make: Callable[..., Any], tokenizer: Any) -> None:
    """Token states and pooled vectors."""
    pipe, keep = make(tokenizer), ["a cat", "a red apple on a table", "a dog"]
    rows = {kind: rows.preserved for kind, rows in read_rows(host_for(pipe), [], keep, "last").items()}
    learned, problem = learnt(pipe, keep, tokens="last")
    moved = changes(learned, pipe, rows)
    assert set(learned.made["moved"]) == {stream.kind for stream in problem.streams}
    assert max(float(one.max()) for one in moved.values()) < 1e-5
    erased = changes(learned, pipe, {kind: rows.erased for kind, rows in problem.rows.items()})
    assert min(float(one.min()) for one in erased.values()) > 1e-2


def test_how_many_texts_fit_is_said(tokenizer: Any, tmp_path: Path) -> None:
    """And it is true; a larger cut-off takes all of them."""
    pipe, keep = tiny_sd(tokenizer), [f"a {word} dog" for word in "abcdefghijklmnopqrstuvwxyz"]
    keep += [f"a cat on {n} tables" for n in range(9)]
    with pytest.raises(PolicyError, match=r"texts to keep \d+ fit") as raised:
        Nullspace.make(host_for(pipe), PISTOL, tmp_path, preserve=keep)
    fit = int(str(raised.value).split(" texts to keep ")[1].split()[0])
    assert 0 < fit < len(keep) and not any(tmp_path.iterdir())
    assert learnt(pipe, keep[:fit], tokens="last")[0].tensors
    with pytest.raises(PolicyError):
        learnt(pipe, keep[: fit + 1], tokens="last")
    assert learnt(pipe, keep, tokens="last", cutoff=0.1)[0].made["moved"]["states"] > 1e-5


def test_directions() -> None:
    """Shares of the strongest one: the size of the rows makes no difference."""
    held = torch.diag(torch.tensor([1.0, 1e-2, 1e-4, 0.0]))
    for size in (1.0, 1e-3, 1e6):
        assert [directions(size * held, cutoff)[1].shape[1] for cutoff in (1e-12, 1e-6, 1e-3)] == [1, 2, 3]
    assert how_many_fit(torch.eye(6), 1e-12, 2) == 4


def test_rotation_turns_the_concept_and_leaves_what_stays(pipe: Any) -> None:
    """Outputs of every layer: those of erased rows turn to their guides' and keep their size, kept ones do not move."""
    keep = others()[:40]
    rows = {kind: rows.preserved for kind, rows in read_rows(host_for(pipe), [], keep, "last").items()}
    learned, problem = learnt(pipe, keep, rotation=True, lamb=1e-4)
    terms = read_terms(learned.tensors, learned.metadata or {}, host_for(pipe).layers())
    erased, guide = problem.rows["states"].erased, problem.rows["states"].guide
    for name, weight in problem.streams[0].weights.items():
        down, up, scale = terms[name]
        assert scale == 1 and 0 < len(down) <= len(weight)

        def change(x: Tensor, down: Tensor = down, up: Tensor = up) -> Tensor:
            return x @ down.T @ up.T

        kept = rows["states"] @ weight.T
        assert float((change(rows["states"]).norm(dim=1) / kept.norm(dim=1)).max()) < 1e-5
        # Of what a layer says, the part that nothing kept has: that is what can be turned.
        free = directions(held_rows(problem)["states"].double() @ weight.double().T, 1e-12)[1].float()
        before, aim = erased @ weight.T @ free, guide @ weight.T @ free
        after = (erased @ weight.T + change(erased)) @ free
        assert float((after.norm(dim=1) / before.norm(dim=1) - 1).abs().max()) < 0.02
        alike = torch.nn.functional.cosine_similarity
        assert alike(after, aim).mean() > alike(before, aim).mean() + 0.1, name


def test_rotation_says_when_outputs_are_too_few(pipe: Any) -> None:
    with pytest.raises(PolicyError, match="outputs, and what must stay takes all but"):
        learnt(pipe, [f"{word} {noun}" for noun in others() for word in ("big", "small", "red")], rotation=True)
