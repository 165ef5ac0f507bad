"""What a text looks like to a reader, and what tokens say in bytes."""

from __future__ import annotations

from typing import Any

import pytest
from conceptguard_plugins.language.phrases.bank import Bank
from conceptguard_plugins.language.phrases.text import forms
from tiny_language import tokenizer
from tokenizers import AddedToken, Tokenizer
from transformers import ByT5Tokenizer, PerceiverTokenizer, PreTrainedTokenizerFast

from conceptguard.hosts.transformers.vocabulary import vocabulary_of
from conceptguard.text.folding import as_words, fold, letter_runs
from conceptguard.text.letters import complete


def found(phrase: str, text: str) -> bool:
    """Whether a phrase stands in a text: the bank's own reading, without tokens."""
    bank, gap, begun = Bank([phrase]), 2, ()
    for run in letter_runs(fold(f" {text} ")):
        gap, begun = bank.read(["", ""] if run == " " else [run], gap, begun)
        if run != " " and any(place.whole for place, _ in begun):
            return True
    return False


ALIKE = [
    ("قنبلة", "قُنْبُلَة"), ("قنبلة", "قنـــبلة"), ("أحمد", "احمد"), ("آدم", "ادم"), ("فارسی", "فارسي"), ("کتاب", "كتاب"),
    ("٥٠", "50"), ("५०", "50"), ("סכין", "סַכִּין"), ("סכין", "סכינ"), ("שלום", "שָׁלוֹם"), ("ܫܠܡܐ", "ܫܠܳܡܳܐ"),
    ("ड़", "ड"), ("ёлка", "елка"), ("λόγος", "ΛΟΓΟΣ"), ("Łódź", "Lodz"), ("smørrebrød", "smorrebrod"),
    ("ビール", "びーる"),
    ("cigarette", "ci\u3164garette"), ("cigarette", "ciga\u180brette"), ("cigarette", "c\u0336i\u0336garette"),
    ("cigarette", "cig\U000e0101arette"), ("cigarette", "ciga\u2066rette"), ("cigarette", "cig\x00arette"),
    ("𝔭istol", "pistol"), ("ⓟistol", "pistol"), ("İstanbul", "istanbul"), ("straße", "STRASSE"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_it_is_the_same_to_a_reader(one: str, other: str) -> None:
    assert found(one, other) and found(other, one)


@pytest.mark.parametrize(("one", "other"), [("कि", "क"), ("น้ำ", "นำ"), ("ভোদা", "ভদ"), ("corn", "com")])
def test_marks_that_are_letters_stay(one: str, other: str) -> None:
    assert as_words(one) != as_words(other) and not found(one, other)


SIGNS = [
    ("C++", "he writes C++ all day", "vitamin C is good"), ("C#", "in C#, too", "grade C pupils"),
    ("C#", "C#.", "C++"), (".NET", "the .NET runtime", "the net is torn"), ("$1", "for $1", "room 1"),
    ("pu$$y", "a pu$$y", "pu y"), ("f*ck", "what the f*ck", "what the f ck"), ("A/C", "the A/C is off", "an a c b"),
    ("R&B", "R&B music", "r b"), ("R & B", "R & B music", "r b"), ("U.S.", "the U.S. army", "look at us"),
    ("U.S.", "u s", "us"), ("W.H.O.", "the W. H. O.", "who is it"), ("💣", "a 💣", "a bomb"),
    ("F#m", "in F#m", "fm radio"),
    ("C++", "**C++**", "C+"), ("50 €", "50 € each", "50 each"), ("ASP.NET", "asp.net", "asp internet"),
]  # fmt: skip


@pytest.mark.parametrize(("phrase", "said", "free"), SIGNS)
def test_signs_and_initials_belong_to_a_phrase(phrase: str, said: str, free: str) -> None:
    assert found(phrase, said) and not found(phrase, free), forms(phrase)


def test_what_is_left_of_a_phrase_is_told() -> None:
    assert Bank(["C:", "New York", "U.S.", "C++", "a"]).short == {"C:": "c"}


@pytest.mark.parametrize("text", ["vos-sberg", "vos\nsberg", "vos_sberg", "vos**sberg", "**vos**sberg", "vos'sberg",
                                  "vos.sberg", "vos/sberg", "vos$sberg", "vos\ufffdsberg"])  # fmt: skip
def test_a_mark_inside_a_word_hides_nothing(text: str) -> None:
    assert found("Vossberg", text)
    assert not found("Vossberg", "vos sberg") and not found("Vossberg", text.replace("sberg", " sberg"))


def test_unfinished_bytes_spoil_no_letter_beside_them() -> None:
    assert complete(b"\xe6\xd9\x82\xd9") == ("\ufffdق", b"\xd9")
    assert complete("ق".encode() + b"\xf0\x9f") == ("ق", b"\xf0\x9f")


@pytest.mark.parametrize("kind", [ByT5Tokenizer, PerceiverTokenizer])
def test_tokens_that_are_one_byte_of_a_letter_say_that_byte(kind: Any) -> None:
    """They decode to nothing, or to an unreadable sign, by themselves."""
    tok = kind()
    vocabulary = vocabulary_of(tok, frozenset(), 10**6)
    for text in ("قنبلة", "東京 💣", "straße"):
        ids = tok(text, add_special_tokens=False).input_ids
        assert b"".join(vocabulary.pieces[i] or b"" for i in ids) == text.encode()
        assert vocabulary.said(ids[:-1]) == (text[:-1], text[-1].encode()[:-1])


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
def test_added_tokens_say_what_decoding_shows(kind: str) -> None:
    inner = Tokenizer.from_str(tokenizer(kind).backend_tokenizer.to_str())
    inner.add_tokens([AddedToken(text, normalized=False) for text in ("Ġfoo", "▁bar", "a b", "ж")])
    inner.add_special_tokens([AddedToken("<|reserved_0|>", special=True)])
    tok = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>")
    vocabulary = vocabulary_of(tok, frozenset(), 10**6)
    first = tok("x", add_special_tokens=False).input_ids
    for text in ("Ġfoo", "▁bar", "a b", "ж", "<|reserved_0|>"):
        i = tok.convert_tokens_to_ids(text)
        shown = tok.decode([*first, i], skip_special_tokens=True).removeprefix(tok.decode(first))
        assert (vocabulary.pieces[i] or b"").decode() == shown
    assert i in vocabulary.special and i not in tok.all_special_ids


def test_what_is_shown_of_unfinished_letters_is_read_from_bytes() -> None:
    """Sentencepiece shows none of the letters beside one that is not finished."""
    tok = tokenizer("sentencepiece")
    vocabulary = vocabulary_of(tok, frozenset(), 10**6)
    ids = tok("قنبلة", add_special_tokens=False).input_ids
    assert "ق" not in tok.decode(ids[:-1]) and vocabulary.decode(ids[:-1]) == "قنبل\ufffd"
