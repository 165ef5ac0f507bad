"""The same numbers as the authors' own code, on the same tensors. See data/README.md for where they come from."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import pytest
import torch
from conceptguard_plugins.diffusion.rece import RECEMakeSettings, iterate
from paths import DATA
from safetensors.torch import load_file
from torch import Tensor, nn

from conceptguard.generation.conditioning import Encoded
from conceptguard.making.edits import Rows, brought_back, directions, edited, products, solve, solve_free
from conceptguard.making.edits.rows import Span, kept_rows, paired
from conceptguard.runtime.banks import Banks
from conceptguard.runtime.encodings import EncodingCache, Ordinary
from conceptguard.runtime.gates import Gate, GateBank
from conceptguard.runtime.lowrank import Factors, LayerIndex, Terms

KINDS = ("linear", "conv1", "conv3")


@pytest.fixture(scope="module")
def spm() -> dict[str, Tensor]:
    return load_file(DATA / "parity_spm.safetensors")


@pytest.fixture(scope="module")
def uce() -> dict[str, Tensor]:
    return load_file(DATA / "parity_uce.safetensors")


def layer(spm: dict[str, Tensor], kind: str) -> nn.Module:
    weight = spm[f"{kind}.weight"]
    made: nn.Module = (
        nn.Linear(6, 5) if kind == "linear" else nn.Conv2d(6, 5, weight.shape[-1], padding=weight.shape[-1] // 2)
    )
    made.load_state_dict({"weight": weight, "bias": spm[f"{kind}.bias"]})
    return made


def run(spm: dict[str, Tensor], kind: str, membranes: list[int], coupled: bool) -> Tensor:
    """The layer's output with these membranes open at their gates, through the low-rank runtime."""
    home = nn.ModuleDict({"layer": layer(spm, kind)})
    terms = [
        Terms(cast(Any, None), {"unet.layer": Factors(spm[f"{kind}.{i}.down"], spm[f"{kind}.{i}.up"])}, Gate(), coupled)
        for i in membranes
    ]
    banks = Banks(LayerIndex({"unet": home}), terms, object())
    x = spm[f"{kind}.x"]
    banks.set("unet", spm["gates"][membranes].expand(len(x), -1))
    with torch.no_grad():
        out = home["layer"](x)
    banks.detach()
    return cast(Tensor, out)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("membrane", [0, 1])
def test_spm_is_linear_in_the_gate_as_the_authors_layer(spm: dict[str, Tensor], kind: str, membrane: int) -> None:
    """Also at half a gate: a gate applied twice would show."""
    torch.testing.assert_close(
        run(spm, kind, [membrane], coupled=False), spm[f"{kind}.linear_mode.{membrane}"], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("kind", KINDS)
def test_spm_official_has_squared_gates_and_cross_terms(spm: dict[str, Tensor], kind: str) -> None:
    expected = spm[f"{kind}.official_mode"]
    torch.testing.assert_close(run(spm, kind, [0, 1], coupled=True), expected, atol=1e-5, rtol=0)
    assert (run(spm, kind, [0, 1], coupled=False) - expected).abs().max() > 1e-2


def test_spm_official_metric(spm: dict[str, Tensor]) -> None:
    """max(flattened cosine, share of the concept's tokens), begin token and padding included in the cosine."""
    special = {90, 91}
    ids = [[t for t in row if t not in special] for row in spm["score.erased_ids"].tolist()]

    def encode(texts: list[str]) -> Encoded:
        rows = [int(t) for t in texts]
        return Encoded(spm["score.erased"][rows], [ids[r] for r in rows])

    gates = [Gate(prompts=(str(i),), metric="official") for i in range(len(ids))]
    bank = GateBank(gates, encode, EncodingCache(ordinary=Ordinary(torch.zeros(4), Counter())))
    prompt = [t for t in spm["score.prompt_ids"][0].tolist() if t not in special]
    torch.testing.assert_close(
        bank(spm["score.prompt"], [prompt])[0], spm["score.expected"].clamp(0, 1), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(("tokens", "preserve_scale"), [("last", 0.8), ("tail", 0.3)])
def test_uce(uce: dict[str, Tensor], tokens: Any, preserve_scale: float) -> None:
    """Both token choices: the last token alone (code of 2025), from there to the end of padding (the first code)."""
    empty, a, b, guide, keep = (uce[f"embeds.{name}"] for name in ("empty", "a", "b", "guide", "keep"))
    pairs = [paired(9, Span(1, i), Span(1, j), tokens, causal=True) for i, j in ((1, 0), (2, 1))]
    erased = torch.cat([a[pairs[0][0]], b[pairs[1][0]]])
    guided = torch.cat([empty[pairs[0][1]], guide[pairs[1][1]]])
    kept = kept_rows(keep, 3, tokens) if tokens == "last" else torch.cat([kept_rows(empty, 0, tokens), keep])
    names = [key.removeprefix("last.") for key in uce if key.startswith("last.")]
    weights = {name: uce[f"{name}.weight"] for name in names}
    edit = solve(Rows(erased, guided, kept), 0.5, 1.0, preserve_scale)
    down, ups = edit.down, edited(edit, weights)
    assert len(down) == (2 if tokens == "last" else 8)  # never more ranks than erased rows, nor than the input is wide
    for name in names:
        found = (weights[name].double() + ups[name] @ down).float()
        torch.testing.assert_close(found, uce[f"{tokens}.{name}"], atol=1e-5, rtol=0)
        assert (found - weights[name]).abs().max() > 1e-2


def test_a_bias_counts_once() -> None:
    """FLUX's door has one. The authors' code adds it to what the weight alone is to say, and leaves it in the layer, so
    that what is preserved moves by it; on a door without one the edit is theirs."""
    flux = load_file(DATA / "parity_flux.safetensors")
    a, guide, keep = (flux[f"embeds.{name}"][i] for name, i in zip(("a", "guide", "keep"), flux["last"]))
    weight, bias = flux["weight"], flux["bias"]
    new = (weight.double() @ solve(Rows(a[None], guide[None], keep[None]), 0.5, 1.0, 0.8).matrix()).float()
    torch.testing.assert_close(new, flux["without_bias"], atol=1e-5, rtol=0)

    def moved(weight: Tensor, edited: Tensor) -> float:
        return float((edited @ keep - weight @ keep).norm() / (weight @ keep).norm())

    assert moved(weight, flux["with_bias"]) > 0.2 > 10 * moved(weight, new)
    twice = flux["with_bias"] @ a - (weight @ guide)
    assert torch.cosine_similarity(twice, bias, dim=0) > 0.9  # the concept is read as its guide and one bias more


def test_uce_repeated_rows_count_as_often_as_given() -> None:
    """A repeated row takes no second rank, and still weighs twice."""
    random = torch.Generator().manual_seed(0)
    c, g, kept = (torch.randn(n, 8, generator=random) for n in (2, 2, 3))
    weight = torch.randn(6, 8, generator=random)
    once = solve(Rows(c, g, kept), 0.5, 2.0)
    twice = solve(Rows(c.repeat(2, 1), g.repeat(2, 1), kept), 0.5, 1.0)
    assert len(twice.down) == 2
    whole = [edited(edit, {"w": weight})["w"] @ edit.down for edit in (once, twice)]
    torch.testing.assert_close(*whole)


def near(found: Tensor, expected: Tensor) -> None:
    """To 1e-4 of the whole: the authors' inverses are taken in fp32."""
    assert float((found.float() - expected).norm() / expected.norm()) < 1e-4


@pytest.fixture(scope="module")
def rece() -> dict[str, Tensor]:
    return load_file(DATA / "parity_rece.safetensors")


def test_rece_derives_and_erases_as_the_authors_code(rece: dict[str, Tensor]) -> None:
    """A first edit and two rounds: the derived embeddings and every layer's weights, whose edits share one input."""
    empty, a, b = (rece[f"embeds.{name}"] for name in ("empty", "a", "b"))
    rows = Rows(torch.cat([a, b]), torch.cat([empty, empty]), torch.cat([empty, empty]))
    weights = {key.removeprefix("weight."): value for key, value in rece.items() if key.startswith("weight.")}
    gram = products(*2 * [torch.cat(list(weights.values()))])
    edit = solve(rows, 0.5, 1.0, 0.1)
    for step in range(3):
        for name, weight in weights.items():
            near(weight.double() @ edit.matrix(), rece[f"round{step}.{name}"])
        if step < 2:
            derived = brought_back(edit, gram, rows.erased, 0.1)
            for own, name in zip(derived.chunk(2), "ab"):
                near(own, rece[f"derived{step + 1}.{name}"])
            edit = edit.then(solve(rows._replace(erased=derived), 0.1, 1.0, 0.1))


def test_rece_official_rounds_are_those(rece: dict[str, Tensor]) -> None:
    """As the maker runs them; the other way, erased together, is another edit, and keeps more of the first."""
    empty, a, b = (rece[f"embeds.{name}"] for name in ("empty", "a", "b"))
    rows = Rows(torch.cat([a, b]), torch.cat([empty, empty]), torch.cat([empty, empty]))
    weights = {key.removeprefix("weight."): value for key, value in rece.items() if key.startswith("weight.")}
    gram = products(*2 * [torch.cat(list(weights.values()))])
    same = {"regulariser": 0.1 / float(gram.diagonal().mean()), "rounds": 1, "preserve_scale": 0.1, "moves": 9.0}
    left = {}
    for compat in ("official", "paper"):
        edit, told = iterate(rows, rows, gram, RECEMakeSettings(compat=compat, gain=0.0, **same))
        assert len(told) == 2
        left[compat] = float((rows.erased.double() @ edit.matrix().T - rows.guide).norm())
        if compat == "official":
            for name, weight in weights.items():
                near(weight.double() @ edit.matrix(), rece[f"round1.{name}"])
    assert left["paper"] < left["official"]


def test_nullspace_is_the_edit_of_the_authors_code() -> None:
    """Their projector, and their second one for a prompt without words, are one basis of what is free."""
    speed = load_file(DATA / "parity_speed.safetensors")
    empty, a, b, guide, *kept = (
        speed[f"embeds.{name}"] for name in ("empty", "a", "b", "guide", "keep1", "keep2", "keep3")
    )
    nothing = [empty[0], *(part.mean(0) for part in empty[1:].chunk(3))]
    held = torch.stack([*nothing, kept[0][1], kept[1][2], kept[2][1]])
    rows = Rows(torch.stack([a[1], b[2]]), torch.stack([guide[1], guide[1]]), held)
    taken, free = directions(held, 1e-12)
    edit = solve_free(rows, free, lamb=2.0)  # 1 for the mean of two
    assert (taken.shape[1], free.shape[1], len(edit.down)) == (7, 9, 2)
    for key, weight in speed.items():
        if key.startswith("weight."):
            near(weight.double() @ edit.matrix(), speed[key.replace("weight.", "edited.")])
            near((weight.double() @ edit.matrix() @ held.double().T), weight @ held.T)
            assert (weight @ rows.erased.T - weight.double() @ edit.matrix() @ rows.erased.double().T).norm() > 1
