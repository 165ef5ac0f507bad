"""One picture in, its concepts out: parts that lie where things are, words that the model draws them by, tokens."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from commands import reported, said
from conceptguard_plugins.finding.concept_express.places import attention, finch, regions
from small_planted import STEPS, encoder

from conceptguard.errors import PolicyError
from conceptguard.finder import Found, FoundConcept, PictureSet, Search
from conceptguard.finding.encoders import EMBEDDED, words_for
from conceptguard.finding.looked import Looked
from conceptguard.finding.planted import SEEDS, Scene, compose, drawn_alone
from conceptguard.measuring.samples import save_png
from conceptguard.plugins import host_for, offers
from conceptguard.testing import embedded_model

WORDS = ["umbrella", "sunflower", "car", "cat", "hammer", "bus", "moon", "pencil"]
SCENE = Scene((("umbrella", 0, 1, 30), ("sunflower", 0, 65, 40)), "noto", False, None)


@cache
def two() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A picture of two things [3, 128, 128] of bytes, and where each is."""
    pixels, masks = compose(SCENE, drawn_alone(embedded_model(), SEEDS["tune"], STEPS))
    return (pixels.clamp(0, 1) * 255).round().byte(), masks


def find(pixels: torch.Tensor, words: list[str] = WORDS, **settings: Any) -> Found:
    finder = offers("finders")["concept_express"]
    given = PictureSet(pixels[None], ["it"], [""])
    chosen = finder.FindSettings(**settings)
    return finder.find(Search(host_for(embedded_model()), None, chosen, 0, "it", False, given, encoder(), words))


def test_parts_words_and_tokens() -> None:
    pixels, masks = two()
    found = find(pixels, steps=2, semantic=0.1, vectors=2).concepts
    for name in ("umbrella", "sunflower"):
        one = max(found, key=lambda one: overlap(one.maps[0], masks[name]))
        assert overlap(one.maps[0], masks[name]) > 0.3, name
        assert overlap(one.maps[0].flip(1), masks[name]) < 0.1, "the same part elsewhere"
        assert one.evoked[0] == one.name == name and one.words[0][1] > 0.03
        assert one.token is not None and one.token.shape == (2, 128) and bool(one.token.isfinite().all())
    assert len(found) <= 4 and sum(one.importance for one in found) < 1


def overlap(small: torch.Tensor, mask: torch.Tensor) -> float:
    large = F.interpolate(small[None, None], mask.shape, mode="nearest")[0, 0] > 0
    return float((large & mask).sum() / (large | mask).sum())


def test_words_that_say_nothing_are_not_said() -> None:
    """None of these is in the picture: parts have numbers, and no word is made up."""
    found = find(two()[0], ["snowman", "syringe", "laptop"], steps=0)
    assert found.concepts and all(one.token is None for one in found.concepts)
    assert all(one.words[0][1] < 0.1 for one in found.concepts if one.words), "a word may save a little by chance"
    assert not find(two()[0], [], steps=0).concepts[0].words


def test_grounds_are_called_by_no_word() -> None:
    squares = torch.arange(128) // 16
    checks = ((squares[:, None] + squares) % 2 * 255).byte().expand(3, -1, -1).contiguous()
    found = find(checks, words_for(EMBEDDED, things=True), steps=0, concepts=1)
    assert found.concepts and not found.concepts[0].words
    assert "1 of them without a word: no policy guards what has none" in found.told


def test_what_has_no_word_leaves_no_policy_of_another_picture(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("name: found\nguards: []\n")
    bare = FoundConcept("concept 1", [], torch.ones(1), torch.ones(1, 16, 16), torch.zeros(0), 1.0)
    given = PictureSet(torch.zeros(1, 3, 128, 128, dtype=torch.uint8), ["it"], [""])
    search = Search(host_for(embedded_model()), None, None, 0, "it", False, given)
    Looked(offers("finders")["concept_express"], search, Found([], "", {}, [bare]), tmp_path, []).write()
    assert not (tmp_path / "policy.yaml").exists()


def test_attention_that_is_not_finite() -> None:
    """As of a model in half precision that overflows: said, rather than that nothing stands out."""
    host = host_for(embedded_model())
    denoiser = host.denoiser()

    class Overflowing:
        def __getattr__(self, what: str) -> Any:
            return getattr(denoiser, what)

        def looks(self, *given: Any) -> Any:
            seen = denoiser.looks(*given)
            seen.between.fill_(float("nan"))
            return seen

    with pytest.raises(PolicyError, match="is not finite: load it in fp32"):
        attention(Overflowing(), torch.zeros(1, *denoiser.shape), host.encode([""]), torch.Generator())  # type: ignore[arg-type]


def test_what_is_asked_wrongly() -> None:
    with pytest.raises(PolicyError, match="it is of one colour all over"):
        find(torch.full((3, 128, 128), 255, dtype=torch.uint8))
    finder = offers("finders")["concept_express"]
    with pytest.raises(PolicyError, match="looks at one picture through a model"):
        finder.find(Search(None, None, finder.FindSettings(), 0, "it", False))


def test_nearest_by_divergence_are_of_one_cluster() -> None:
    rows = torch.tensor([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.1, 0.2, 0.7]])
    assert finch(rows).tolist() == [0, 0, 1, 1]
    told = torch.ones(16)
    assert not regions(torch.full((16, 16), 1 / 16), told, 4), "nothing stands out"


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A picture becomes a policy that is in force wherever policies are, and a word that diffusers loads."""
    save_png(two()[0], tmp_path / "one.png")
    asked = ["find", "concept_express", "--model", "emoji-sd", "--pictures", tmp_path / "one.png"]
    words = ["--words", ",".join(WORDS), "--set", "steps=1", "--out", tmp_path / "out", "--page", tmp_path / "it.html"]
    told = reported(capsys, *asked, *words)
    assert {"umbrella", "sunflower"} <= {row["concept"] for row in told["rows"]} and not told["checks"]
    policy = yaml.safe_load((tmp_path / "out" / "policy.yaml").read_text())
    assert {"umbrella", "sunflower"} <= {guard["concept"]["name"] for guard in policy["guards"]}
    pipe = embedded_model()
    pipe.load_textual_inversion(tmp_path / "out" / "tokens" / "umbrella.safetensors")
    pipe.unload_textual_inversion()
    assert "Three checks" not in (tmp_path / "it.html").read_text()
    assert "none.png: no such file" in said(capsys, *asked[:4], "--pictures", tmp_path / "none.png", status=1)[1]
    assert "give --pictures FILE and --model" in said(capsys, *asked[:4], "--pictures", tmp_path, status=2)[1]
