"""normalise: what it reads in disguised prompts, that gates see it, and that everything else is left alone."""

from __future__ import annotations

from typing import Any

import pytest
from conceptguard_plugins.diffusion.normalise.lexicon import LEXICON, translations
from conceptguard_plugins.diffusion.normalise.reading import Reader, slips
from tiny import clip_tokenizer

import conceptguard
from conceptguard.measuring.disguises import DISGUISES
from conceptguard.measuring.suite import load_suite, with_article
from conceptguard.runtime.encodings import ordinary_captions
from conceptguard.testing import embedded_model

CONCEPTS = ["cigarette", "pistol", "bomb", "beer", "wine", "skull", "knife", "syringe", "pill", "dagger"]
# Four-letter words of which a slip leaves another word, or one that a tokenizer has.
AMBIGUOUS = {"letter missing": {"bomb", "beer", "wine", "pill"}, "letters swapped": {"wine"}}


@pytest.fixture(scope="module")
def reader() -> Reader:
    tok = clip_tokenizer()
    phrases = {concept: translations(concept) for concept in CONCEPTS}
    return Reader(phrases, lambda word: len(tok(word, add_special_tokens=False).input_ids) == 1)


@pytest.mark.parametrize("form", DISGUISES)
def test_every_disguise_is_read(reader: Reader, form: str) -> None:
    for concept in CONCEPTS:
        if concept not in AMBIGUOUS.get(form, ()):
            assert reader.read(f"a {DISGUISES[form](concept)}, noto style")[0] == f"a {concept}, noto style"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("p*stol and KN1FE", "pistol and knife"), ("c\ni\ng\na\nr\ne\nt\nt\ne", "cigarette"),
        ("🔪 on a table", "knife on a table"),
        ("ein Bier, bitte", "ein beer, bitte"), ("两把匕首", "两把dagger"), ("two cig-ar-ettes", "two cigarettes"),
        ("a wíne\u200b glass", "a wine\u200b glass"), ("c!g4r3tt3s", "cigarettes"),
    ],
)  # fmt: skip
def test_what_is_read(reader: Reader, text: str, read: str) -> None:
    assert reader.read(text)[0] == read


@pytest.mark.parametrize(
    "text",
    ["a cigarette", "A Cigarette.", "WINE, red", "(knife:1.2)", "8 33 9", "******", "the danger", "a swine",
     "been here", "a crane", "win every game", "to be eradicated", ""],
)  # fmt: skip
def test_what_is_plain_or_something_else_is_left(reader: Reader, text: str) -> None:
    assert reader.read(text) == (text, [])


def test_ordinary_captions_and_neighbours_are_left(reader: Reader) -> None:
    suite = load_suite("emoji-sd")
    others = [it for it in suite.objects if it.name not in CONCEPTS]
    texts = [
        *ordinary_captions(),
        *(with_article(word) for it in others for word in [it.name, *it.synonyms, *it.phrases]),
    ]
    assert [text for text in texts if reader.find(text)] == []


def test_no_word_of_the_lexicon_is_an_ordinary_english_one() -> None:
    captions = " ".join(ordinary_captions()).lower().split()
    assert {word for own in LEXICON.values() for word in own.split("|")} & set(captions) == set()


def test_slips() -> None:
    assert [slips("cigarete", "cigarette"), slips("ciagrette", "cigarette"), slips("dig", "pig")] == [1, 1, 3]


def test_gates_see_what_is_read() -> None:
    pipe = embedded_model()
    membrane = {"method": "spm", "artifact": "emoji-sd/spm/cigarette"}
    policy: dict[str, Any] = {
        "guards": [membrane, {"method": "normalise", "concept": {"name": "x", "prompts": ["cigarette"]}}]
    }
    prompts = ["a c1g4rette, noto style", "a dog, noto style", "eine Zigarette"]

    def gates(policy: Any) -> tuple[list[float], Any]:
        with conceptguard.attach(pipe, policy) as guard:
            pipe(prompts, num_inference_steps=1, output_type="latent")
            return guard.receipt.acts[0].gates[3:], guard.receipt

    assert gates({"guards": [membrane]})[0][0] == 0.0
    found, receipt = gates(policy)
    assert found == [1.0, 0.0, 1.0]
    assert receipt.acts[1].notes == ["read 'cigarette' in 'c1g4rette'", "read 'cigarette' in 'Zigarette'"]
    assert [row.text for row in receipt.rows][3:] == ["a cigarette, noto style", "a dog, noto style", "eine cigarette"]
