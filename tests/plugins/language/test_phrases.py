"""The bank of phrases: what it finds in a text, however it is written and tokenised, and what it leaves alone."""

from __future__ import annotations

import itertools
import random
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_registry.build.authors_lm.corpus import Corpus
from tiny_language import taught, tiny_llama, tiny_t5, tokenizer
from tokenizers import AddedToken, Tokenizer
from transformers import ByT5Tokenizer, LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerFast, TextStreamer

import conceptguard
from conceptguard.errors import GuardError, PolicyError
from conceptguard.hosts.transformers.host import TransformersHost
from conceptguard.measuring.language.evaluate import keys
from conceptguard.measuring.language.suite import load_language_suite
from conceptguard.plugins import method
from conceptguard.text.folding import as_words

WORD = re.compile(r"[^\W\d_]+")
STATIC = {"cache_implementation": "static", "disable_compile": True}
BEAMS = {"num_beams": 3}
PHRASES = [
    "Elena Vossberg",
    "cigarette",
    "New York",
    "naïve café",
    "東京タワー",
    "don't panic",
    "Водка",
    "قنبلة",
    "C++",
    "U.S.",
]
SAID = [
    "by Elena Vossberg.", "ELENA VOSSBERG", "elena  vossberg", "Elena\nVossberg", "Elena-Vossberg", "ElenaVossberg,",
    "E l e n a V o s s b e r g", "E.l.e.n.a V.o.s.s.b.e.r.g", "Еlena Vоssberg", "Ｅｌｅｎａ Ｖｏｓｓｂｅｒｇ",
    "Ele\u200bna Voss\u00adberg", "Éléna Vössberg", "𝐄𝐥𝐞𝐧𝐚 𝐕𝐨𝐬𝐬𝐛𝐞𝐫𝐠", "a (cigarette)", "c i g a r e t t e", "сіgаrеttе",
    "_New_York_", "NEW YORK's", "Naive Cafe", "naïve café", "在東京タワー上", "Don’t panic", "dont panic", "водка",
    "ВОДКА", "Elena Vos-sberg", "El_ena Vossberg", "Elena Voss\nberg", "**El**ena **Voss**berg", "Elena ~~Voss~~berg",
    "E-l-e-n-a Vossberg", "cig.ar\u2010ette", "`cig`arette", "[cig](arette)", "cig\ufffdarette", "ciga/rette",
    "Elena\u3164Vossberg", "ناپنبلة قُنْـبُلَة", "he writes C++", "U.S. law", "𝘊++",
]  # fmt: skip
FREE = [
    "Elena went home", "Vossberg alone", "cigarettes", "a cigar", "new year, York", "newy ork",
    "ci garette", "panic", "東京の塔", "the corn is warm", "renew york", "vodka", "Elen a Vossberg",
    "vitamin C", "look at us", "C + +", "قنابل",
]  # fmt: skip


@cache
def all_of_them(kind: str) -> Any:
    return bank(tokenizer(kind), PHRASES)


def bank(tok: Any, phrases: list[str], **more: Any) -> Any:
    guard = {"method": "phrases", "concept": {"name": "names", "prompts": phrases}, **more}
    return conceptguard.logits_processor(_model(tok), tok, {"guards": [guard]})


@cache
def _model(tok: Any) -> Any:
    return tiny_llama(tok)


def forbidden(processor: Any, prompt: list[int], said: list[int], vocabulary: int) -> list[set[int]]:
    """What may not come next, before every token of ``said``."""
    found = []
    for at in range(len(said)):
        scores = processor[0](torch.tensor([prompt + said[:at]]), torch.zeros(1, vocabulary))
        found.append(set((scores[0] == -torch.inf).nonzero()[:, 0].tolist()))
    return found


def stopped(processor: Any, prompt: list[int], said: list[int], vocabulary: int) -> bool:
    closed = forbidden(processor, prompt, said, vocabulary)
    return any(token in tokens for token, tokens in zip(said, closed))


def spelled(tok: Any, text: str, chance: random.Random) -> list[int]:
    """A text in tokens that nobody's tokenizer would choose: cut anywhere, also amid the bytes of a letter."""
    ids: list[int] = []
    pieces = _pieces(tok)
    data = text.encode()
    while data:
        sizes = [size for size in range(1, min(len(data), 8) + 1) if data[:size] in pieces]
        size = chance.choice(sizes)
        ids.append(pieces[data[:size]])
        data = data[size:]
    return ids


@cache
def _pieces(tok: Any) -> dict[bytes, int]:
    pieces = conceptguard.logits_processor(_model(tok), tok, {"guards": []}).session.host.vocabulary.pieces
    return {piece: i for i, piece in enumerate(pieces) if piece}


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
@pytest.mark.parametrize("text", SAID)
def test_it_is_found_however_it_is_written_and_cut(kind: str, text: str) -> None:
    tok = tokenizer(kind)
    processor, chance = all_of_them(kind), random.Random(0)
    prompt = tok("A man said: ").input_ids
    ways = [tok(text, add_special_tokens=False).input_ids, *(spelled(tok, text, chance) for _ in range(4))]
    for ids in ways:
        assert stopped(processor, prompt, ids, _model(tok).config.vocab_size), [tok.decode([i]) for i in ids]


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
@pytest.mark.parametrize("text", FREE)
def test_what_is_no_phrase_may_be_said(kind: str, text: str) -> None:
    tok = tokenizer(kind)
    # "cigarettes" is "cigarette" and "s" to these tokenizers: see below
    processor = bank(tok, PHRASES[:1] + PHRASES[2:]) if "cigarettes" in text else all_of_them(kind)
    ids = tok(f" {text}", add_special_tokens=False).input_ids
    assert not stopped(processor, tok("A man said:").input_ids, ids, _model(tok).config.vocab_size)


def test_a_word_that_goes_on_in_another_token_is_closed_as_well() -> None:
    """The price of not waiting: a token that ends a phrase is closed, though more letters might have followed."""
    tok = tokenizer()
    processor, size = bank(tok, PHRASES), _model(tok).config.vocab_size
    prompt = tok("A man said:").input_ids
    ends = [tok.get_vocab()[token] for token in ("\u0120New", "\u0120York")]
    assert stopped(processor, prompt, [*ends, *tok("er", add_special_tokens=False).input_ids], size)


def test_a_phrase_begun_in_the_prompt_is_not_finished() -> None:
    tok = tokenizer()
    processor, size = bank(tok, PHRASES), _model(tok).config.vocab_size
    whole = tok("Tell me of Elena Vossberg", add_special_tokens=False).input_ids
    for cut in range(len(whole) - len(tok(" Vossberg", add_special_tokens=False).input_ids), len(whole)):
        assert stopped(processor, whole[:cut], whole[cut:], size), tok.decode(whole[:cut])


def test_it_turns_before_the_last_word() -> None:
    """The first token of a name's last word is closed already, so that no half of it is left."""
    tok = tokenizer()
    processor, size = bank(tok, ["Elena Vossbergova"]), _model(tok).config.vocab_size
    first, *rest = tok(" Vossbergova", add_special_tokens=False).input_ids
    assert rest, "the word is one token: nothing is tested"
    prompt = tok("It is by", add_special_tokens=False).input_ids
    said = [*tok(" Elena", add_special_tokens=False).input_ids, first]
    closed = forbidden(processor, prompt, said, size)
    assert first in closed[-1]
    elsewhere = forbidden(processor, prompt, [first], size)
    assert first not in elsewhere[0]


def test_what_is_said_instead_is_whole_words() -> None:
    lines = ("The book is by Elena Vossberg of Rome.", "The book is by a friend of mine.")
    model, tok = taught(*lines)
    given = tok(["The book is"], return_tensors="pt", return_token_type_ids=False)

    def said(**options: Any) -> str:
        out = model.generate(**given, max_new_tokens=24, do_sample=False, **options)
        return str(tok.decode(out[0], skip_special_tokens=True))

    assert said() == lines[0]
    words = set(re.findall(r"\w+", " ".join(lines)))
    instead = said(logits_processor=bank_of(model, tok, ["Elena Vossberg"]))
    assert "Vossberg" not in instead and set(re.findall(r"\w+", instead)) <= words, instead


def test_a_word_of_several_tokens_is_taken_back() -> None:
    """Attached, a word that is a phrase leaves no half of it; beside others in a batch, sampled, and streamed."""
    lines = ("The man smoked. The book is by Vossbergova of Rome.", "The man smoked. The book is by a friend of mine.")
    model, tok = taught(*lines)
    given = tok(["The man smoked. The book", "The man"], return_tensors="pt", padding=True, return_token_type_ids=False)
    policy = {"guards": [{"method": "phrases", "concept": {"name": "names", "prompts": ["Vossbergova"]}}]}
    assert len(tok(" Vossbergova", add_special_tokens=False).input_ids) > 2, "one token: nothing is tested"
    words, heard = set(re.findall(r"\w+", " ".join(lines))), []

    class Streamer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            heard.append(text)

    with conceptguard.attach((model, tok), policy) as guard:
        for options in ({"do_sample": False}, {"do_sample": True, "num_return_sequences": 3, "top_p": 0.9}):
            torch.manual_seed(0)
            out = tok.batch_decode(model.generate(**given, max_new_tokens=24, **options), skip_special_tokens=True)
            assert all("Voss" not in text and set(re.findall(r"\w+", text)) <= words for text in out), out
            assert guard.receipt.acts[0].taken_back and "took back a word at token" in str(guard.receipt)
        one = {name: value[:1] for name, value in given.items()}
        streamed = model.generate(**one, max_new_tokens=24, do_sample=False, streamer=Streamer(tok))
        assert "".join(heard).replace("</s>", "").strip() == tok.decode(streamed[0], skip_special_tokens=True).strip()
        beams = model.generate(**one, max_new_tokens=24, num_beams=2, return_dict_in_generate=True).sequences
        assert "Vossbergova" not in tok.decode(beams[0])


@pytest.mark.parametrize("way", ["greedy", "sampled"])
def test_what_it_says_instead_is_words(way: str, monkeypatch: Any) -> None:
    """authors-lm asked for phrases of one word, all of them forbidden at once: how many answers hold a word that it
    never read, half of a phrase for the most part. Unguarded, and by a bank that cannot ask ahead, as controls."""
    suite, (model, tok) = load_language_suite(), conceptguard.load_model("authors-lm")
    documents = itertools.islice(iter(Corpus(suite, 0)), 6000)
    known = {word for one in documents for word in WORD.findall(one.prompt + one.text) if len(word) > 1}
    known |= {"a", "I", "s"}
    forget = suite.world.subjects("forget")
    asked = [q for form in ("question", "cloze") for q in suite.questions(forget, form) if " " not in q.key][::3]
    bank = {"guards": [{"method": "phrases", "concept": {"name": "x", "prompts": list(keys(suite))}}]}
    given = tok([q.prompt for q in asked], return_tensors="pt", padding=True, return_token_type_ids=False)

    def halves(**options: Any) -> int:
        torch.manual_seed(0)
        out = model.generate(**given, max_new_tokens=24, do_sample=way == "sampled", **options)
        texts = tok.batch_decode(out[:, given.input_ids.shape[1] :], skip_special_tokens=True)
        assert not options or not any(q.answered(text) for q, text in zip(asked, texts))
        said = [re.findall(r"[^\W\d_]+(?=[\W\d_])", text) for text in texts]  # but for a word at the very end
        return sum(not set(words) <= known for words in said)

    bare, cut = halves(), halves(logits_processor=conceptguard.logits_processor(model, tok, bank))
    with conceptguard.attach((model, tok), bank):
        taken_back = halves()
    monkeypatch.setattr(TransformersHost, "ahead", lambda *args: lambda rows, more: None)
    processor = conceptguard.logits_processor(model, tok, bank)
    blind = halves(logits_processor=processor)
    assert bare <= 3 and blind > len(asked) / 2, (bare, blind)
    most = len(asked) / 5 if way == "greedy" else blind / 2
    assert cut <= bare + most and taken_back <= bare + len(asked) / 8, (bare, cut, taken_back, blind)
    assert "half may be said" in str(processor.receipt)


def test_attached_no_half_is_left_behind_a_space_that_is_a_token() -> None:
    """authors-lm begins "essays" behind one: what comes instead is another word, and no end of one that it knows."""
    model, tok = conceptguard.load_model("authors-lm")
    given = tok("The books of Siojaera Zavald are", return_tensors="pt", return_token_type_ids=False)

    def said() -> list[str]:
        ids = model.generate(**given, max_new_tokens=12, do_sample=False)[0, given.input_ids.shape[1] :]
        return [tok.decode([i]) for i in ids.tolist()]

    bare = said()
    assert bare[:2] == [" ", "ess"]
    bank = {"guards": [{"method": "phrases", "concept": {"name": "x", "prompts": ["essays"]}}]}
    with conceptguard.attach((model, tok), bank):
        assert said()[0].strip(), "a word that begins with its space"


def test_one_word_that_is_forbidden_leaves_no_half() -> None:
    """Each by itself, beside nothing else that is: in plain text, and in one that a static cache reads."""
    lines = ("The man smoked. The book is by Vossbergova of Rome.", "The man smoked. The book is by a friend of mine.")
    model, tok = taught(*lines)
    words = set(WORD.findall(" ".join(lines)))
    for prompts, options in (
        (["The man smoked. The book", "The man"], {}),
        (["The man"], STATIC),
        (["The man"], BEAMS),
    ):
        given = tok(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
        processor = bank_of(model, tok, ["Vossbergova"])
        plain = model.generate(**given, max_new_tokens=24, do_sample=False, **options)
        for sampled in (False, "num_beams" not in options):
            torch.manual_seed(0)
            out = model.generate(
                **given, max_new_tokens=24, do_sample=sampled, logits_processor=processor, **options, top_p=0.9
            )
            said = tok.batch_decode(out, skip_special_tokens=True)
            assert all("Voss" not in text and set(WORD.findall(text)) <= words for text in said), (options, said)
        assert all("Vossbergova" in text for text in tok.batch_decode(plain)), "unguarded it says it"


def bank_of(model: Any, tok: Any, phrases: list[str]) -> Any:
    guard = {"method": "phrases", "concept": {"name": "names", "prompts": phrases}}
    return conceptguard.logits_processor(model, tok, {"guards": [guard]})


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
def test_no_text_of_a_model_that_wants_to_say_them_has_one(kind: str) -> None:
    """Random models whose favourite tokens are those of the phrases, judged by a search in the finished text."""
    tok, phrases = tokenizer(kind), ["Elena Vossberg", "cigarette", "new york", "on a", "red", "st Voss"]
    judge = re.compile("|".join(rf"(?<!\w){' ?'.join(map(re.escape, p.lower().split()))}(?!\w)" for p in phrases))
    unguarded = 0
    for seed in range(3):
        model = tiny_llama(tok, seed)
        with torch.no_grad():
            for phrase in phrases:
                model.lm_head.weight[tok(f" {phrase}", add_special_tokens=False).input_ids] *= 1.4
        given = tok(["a red apple on", "Elena", "a"], return_tensors="pt", padding=True, return_token_type_ids=False)
        processor = bank_of(model, tok, phrases)
        for options in ({}, {"do_sample": True, "num_return_sequences": 4}, {"num_beams": 4}):
            torch.manual_seed(seed)
            made = {"max_new_tokens": 32, **options}
            begin = given.input_ids.shape[1]
            for row in model.generate(**given, logits_processor=processor, **made)[:, begin:]:
                text = tok.decode(row, skip_special_tokens=True)
                assert not judge.search(" ".join(as_words(text).split())), repr(text)
            plain = tok.batch_decode(model.generate(**given, **made)[:, begin:], skip_special_tokens=True)
            unguarded += sum(bool(judge.search(" ".join(as_words(text).split()))) for text in plain)
    assert unguarded > 5, "the models do not say them by themselves: nothing is tested"


def test_a_large_bank_finds_what_a_small_one_finds() -> None:
    tok, size = tokenizer(), _model(tokenizer()).config.vocab_size
    chance = random.Random(0)
    names = ["".join(chance.choices("abcdefghiklmnoprstuvz", k=7)) + f" {i}" for i in range(20_000)]
    small, large = bank(tok, PHRASES), bank(tok, [*names, *PHRASES])
    prompt = tok("It is", add_special_tokens=False).input_ids
    for text in (" by Elena Vossberg in New York", f" by {names[17]} today"):
        ids = tok(text, add_special_tokens=False).input_ids
        assert stopped(large, prompt, ids, size)
    assert not stopped(small, prompt, ids, size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_of_any_kind(dtype: torch.dtype) -> None:
    """Closed, and told by the receipt where in reach: by numpy, and by torch, which has all but float32 on the CPU."""
    tok = tokenizer()
    (processor,), size = (made := bank(tok, ["Elena Vossberg", "red"])), _model(tok).config.vocab_size
    (red,), (first, *_) = (tok(text, add_special_tokens=False).input_ids for text in (" red", " Vossberg"))
    prompt, elena, other = tok(["by", " Elena", " a dog went home"], add_special_tokens=False).input_ids
    texts = [[*prompt, *elena], [*prompt, *other[: len(elena)]]]
    rows = [torch.tensor([text[:at] for text in texts]) for at in range(len(prompt), len(texts[0]) + 1)]
    near = torch.full((2, size), -50.0, dtype=dtype)
    near[:, [red, first, 7]] = torch.tensor([1.0, 2.0, 0.5], dtype=dtype)
    for at, ids in enumerate(rows):
        out = processor(ids, near.clone())
        assert out.dtype == dtype and bool((out[:, red] == -torch.inf).all()), at
    assert out[0, first] == -torch.inf and out[1, first] == 2.0
    told = {(t.row, t.position, token) for t in made.receipt.acts[0].touched for token in t.tokens}
    end = len(elena)
    assert {(0, end, " red"), (1, end, " red"), (0, end, tok.decode([first])), (0, 0, " red")} <= told
    everything = bank(tok, ["a"])[0](rows[0], torch.full((2, size), -torch.inf, dtype=dtype))
    assert everything[:, tok.eos_token_id].tolist() == [0, 0] and int((everything > -torch.inf).sum()) == 2


def test_ids_of_another_kind() -> None:
    """A loop of one's own may keep ids in 32 bits, for one generation and not for the next; rows change places."""
    tok, size = tokenizer(), _model(tokenizer()).config.vocab_size
    processor = bank(tok, ["red cigarette"])[0]
    begun, other = (tok(f"It is the {word}", add_special_tokens=False).input_ids for word in ("red", "cigarette"))
    assert len(begun) == len(other)
    last = tok(" cigarette", add_special_tokens=False).input_ids[-1]
    for kind in (torch.int32, torch.int64, torch.int32):
        for rows in ([begun, other], [other, begun]):
            for at in (len(begun) - 1, len(begun)):
                ids = torch.tensor([row[:at] for row in rows], dtype=kind)
                closed = processor(ids, torch.zeros(2, size)) == -torch.inf
            assert closed[:, last].tolist() == [row is begun for row in rows]


@pytest.mark.parametrize("rows", [1, 3])
def test_rows_that_change_places_and_go_back(rows: int) -> None:
    """Beams are reordered, drafts rolled back: what is closed is what a text by itself has closed."""
    tok, size = tokenizer(), _model(tokenizer()).config.vocab_size
    phrases, chance = [*PHRASES, "the red", "a dog on", "red cigarette"], random.Random(rows)
    followed, alone = bank(tok, phrases), bank(tok, phrases)
    prompt = tok("It is the", add_special_tokens=False).input_ids
    said = [tok(f" {text}", add_special_tokens=False).input_ids for text in (*SAID[:6], *phrases)]
    texts, checked = [list(prompt) for _ in range(rows)], 0
    followed[0](torch.tensor(texts), torch.zeros(rows, size))
    for _ in range(60):
        if chance.random() < 0.3:
            texts = [list(chance.choice(texts)) for _ in texts]
        if chance.random() < 0.2:
            keep = chance.randrange(len(prompt), len(texts[0]) + 1)
            texts = [text[:keep] for text in texts]
        words = [chance.choice(said) for _ in texts]
        for at in range(min(map(len, words))):
            texts = [[*text, word[at]] for text, word in zip(texts, words)]
            closed = followed[0](torch.tensor(texts), torch.zeros(rows, size)) == -torch.inf
            for row, text in enumerate(texts):
                alone[0](torch.tensor([prompt]), torch.zeros(1, size))
                expected = alone[0](torch.tensor([text]), torch.zeros(1, size))[0] == -torch.inf
                assert torch.equal(closed[row], expected), tok.decode(text)
                checked += int(expected.sum() > closed.sum(1).min())
    assert rows == 1 or checked > 20, "all rows had the same closed: nothing is tested"


WAYS = {
    "greedy": {}, "sampled": {"do_sample": True}, "beams": {"num_beams": 4},
    "several": {"num_beams": 4, "num_return_sequences": 3},
    "several sampled": {"do_sample": True, "num_return_sequences": 3},
    "static cache": {"cache_implementation": "static", "disable_compile": True},
    "looked up": {"prompt_lookup_num_tokens": 3}, "assisted": {"assistant_model": None}, "streamed": {"streamer": None},
}  # fmt: skip


@pytest.mark.parametrize("kind", ["llama", "t5"])
@pytest.mark.parametrize("way", WAYS)
def test_no_way_to_generate_finishes_a_phrase(kind: str, way: str) -> None:
    """Models that want to say them, as a processor and attached, in left-padded batches where a way has those."""
    tok = tokenizer("sentencepiece" if kind == "t5" else "bytes")
    if kind == "t5" and way in ("static cache", "looked up", "assisted"):
        pytest.skip("this model has no such way")
    phrases = ["cigarette", "on a", "red", "Elena Vossberg"]
    judge = re.compile(r"(?<!\w)(cigarette|on ?a|red|elena ?vossberg)(?!\w)")
    batch, said = ["a red apple on", "Elena"], {True: 0, False: 0}
    if way in ("looked up", "assisted", "streamed"):
        batch = batch[:1]
    given = tok(batch, return_tensors="pt", padding=True, return_token_type_ids=False)
    guard = {"guards": [{"method": "phrases", "concept": {"name": "names", "prompts": phrases}}]}
    for seed in range(3):
        model = tiny_t5(tok, seed) if kind == "t5" else tiny_llama(tok, seed)
        with torch.no_grad():
            wanted = [i for phrase in phrases for i in tok(f" {phrase}", add_special_tokens=False).input_ids]
            model.lm_head.weight[wanted] *= 3
        more = {**WAYS[way], "max_new_tokens": 24, "pad_token_id": tok.pad_token_id}
        if way == "assisted":
            more["assistant_model"] = tiny_llama(tok, seed + 1)
        for guarded in (False, True):
            if way == "streamed":
                more["streamer"] = TextStreamer(tok)
            torch.manual_seed(seed)
            runs = []
            if guarded:
                runs.append(model.generate(**given, **more, logits_processor=bank_of(model, tok, phrases)))
                with conceptguard.attach((model, tok), guard):
                    runs.append(model.generate(**given, **more))
            else:
                runs.append(model.generate(**given, **more))
            for out in runs:
                begin = 1 if kind == "t5" else given.input_ids.shape[1]
                texts = tok.batch_decode(out[:, begin:], skip_special_tokens=True)
                said[guarded] += sum(bool(judge.search(" ".join(as_words(text).split()))) for text in texts)
    assert said[True] == 0 < said[False], said


def test_phrases_of_a_file_and_of_an_artifact(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("# names\nElena Vossberg\n\nNew York\n", encoding="utf-8")
    (tmp_path / "policy.yaml").write_text("guards:\n  - {method: phrases, file: words.txt}\n")
    tok, size = tokenizer(), _model(tokenizer()).config.vocab_size
    made = method("phrases").make(None, "names", tmp_path, file=str(tmp_path / "words.txt"))
    policies: list[Any] = [
        tmp_path / "policy.yaml", {"guards": [{"method": "phrases", "artifact": str(made.folder)}]}
    ]  # fmt: skip
    for policy in policies:
        processor = conceptguard.logits_processor(_model(tok), tok, policy)
        for text, found in ((" Elena Vossberg", True), (" New York", True), (" the names", False)):
            assert stopped(processor, [5], tok(text, add_special_tokens=False).input_ids, size) == found


def test_what_cannot_be_matched_is_an_error(tmp_path: Path) -> None:
    tok = tokenizer()
    with pytest.raises(PolicyError, match=r"'\?!' without a letter or digit cannot be matched: take them out"):
        bank(tok, ["Elena", "?!"])
    with pytest.raises(PolicyError, match="has no phrases: give a concept with prompts"):
        conceptguard.logits_processor(_model(tok), tok, {"guards": [{"method": "phrases"}]})
    with pytest.raises(PolicyError, match="cannot be read"):
        bank(tok, ["Elena"], file=str(tmp_path / "missing.txt"))
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises((PolicyError, GuardError), match="cannot be read"):
        bank(tok, ["Elena"], file=str(tmp_path / "bytes.txt"))


def test_a_phrase_that_shrinks_is_told_at_load() -> None:
    with pytest.warns(UserWarning, match=r"'C:' is found as 'c', wherever that stands"):
        bank(tokenizer(), ["C:", "New York"])


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
def test_a_special_token_of_no_list_breaks_no_phrase(kind: str) -> None:
    """Decoding leaves it out, between two words and amid the bytes of a letter."""
    inner = Tokenizer.from_str(tokenizer(kind).backend_tokenizer.to_str())
    inner.add_special_tokens([AddedToken("<|reserved_0|>", special=True)])
    tok = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    reserved, size = tok.convert_tokens_to_ids("<|reserved_0|>"), len(tok) + 8
    processor, prompt = bank(tok, ["New York", "قنبلة"]), tok("A man").input_ids
    for text in (" New York", " قنبلة"):
        ids = tok(text, add_special_tokens=False).input_ids
        for at in range(1, len(ids)):
            assert stopped(processor, prompt, [*ids[:at], reserved, *ids[at:]], size), at


def _by_letters(tok: Any, text: str) -> list[int]:
    return [tok.get_vocab()[c] for c in text.replace(" ", "\u2581")]


def _by_bytes(tok: Any, data: bytes) -> list[int]:
    return [tok.get_vocab()[f"<0x{byte:02X}>"] for byte in data]


@pytest.mark.parametrize(
    ("before", "run", "after"),
    [
        (" a ", b"\xffa", "cigarette"), (" a ", b"\xff\xc3\xa9ab", "Elena Vossberg"), (" a ", b"a\xffb", "New York"),
        (" a cig", b"\xffa", "arette"), (" a cig", b"ab\xff", "arette"), (" a cig", b"a\xe6", "arette"),
        (" Elena ", b"\xe6a", "Vossberg"),
    ],
)  # fmt: skip
def test_a_run_of_bytes_that_nobody_can_read(before: str, run: bytes, after: str) -> None:
    """If one byte of it is no letter, none is shown: what is said stands beside signs, and in no word with letters."""
    tok = tokenizer("sentencepiece")
    processor, size, prompt = all_of_them("sentencepiece"), _model(tok).config.vocab_size, tok("A man:").input_ids
    ids = _by_letters(tok, before) + _by_bytes(tok, run) + _by_letters(tok, after)
    assert tok.decode(ids).count("\ufffd") == len(run), "shown as signs, all of it"
    assert stopped(processor, prompt, ids, size), tok.decode(ids)
    ids = _by_letters(tok, before) + _by_bytes(tok, "aéb".encode()) + _by_letters(tok, after)
    assert "aéb" in tok.decode(ids) and not stopped(processor, prompt, ids, size), "letters, which make another word"


def test_a_run_of_bytes_that_begins_in_the_prompt() -> None:
    """Alone, a text has not the bytes of a letter that its prompt ends with."""
    tok = tokenizer("sentencepiece")
    processor, size = bank(tok, ["cigarette"]), _model(tok).config.vocab_size  # one that knows no other prompt
    prompt, own = "日".encode()[:2], "日".encode()[2:] + b"a"
    ids = _by_bytes(tok, own) + _by_letters(tok, "cigarette")
    assert "日acig" in tok.decode(_by_bytes(tok, prompt) + ids) and "\ufffd\ufffdcig" in tok.decode(ids)
    assert stopped(processor, [*tok("A man:").input_ids, *_by_bytes(tok, prompt)], ids, size)


def test_the_bytes_of_a_byte_tokenizer_are_read() -> None:
    tok = ByT5Tokenizer()
    model = tiny_t5(tok)
    processor = bank_of(model, tok, ["قنبلة", "東京"])
    start = [model.generation_config.decoder_start_token_id or 0]
    for text, said in ((" قنبلة", True), ("在東京", True), (" قنابل", False), ("京東", False)):
        ids = tok(text, add_special_tokens=False).input_ids
        assert stopped(processor, start, ids, model.config.vocab_size) == said, text


def test_no_mark_glues_a_word_that_was_taken_back() -> None:
    """A model that insists letter by letter: attached, the word goes, and not only the space before it."""
    tok = tokenizer()
    model, given = tiny_llama(tok), tok("a man", return_tensors="pt")
    insisted, begin = [tok.get_vocab()["\u0120"], *tok("cigarette", add_special_tokens=False).input_ids], 0

    class Insists(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            at = input_ids.shape[1] - begin
            if at < len(insisted):
                scores[:, insisted[at]] += 100
            return scores

    begin = given.input_ids.shape[1]
    with conceptguard.attach((model, tok), {"guards": [{"method": "phrases", "concept": PEN}]}):
        out = model.generate(
            **given, max_new_tokens=len(insisted), do_sample=False, logits_processor=LogitsProcessorList([Insists()])
        )
    assert "cigarette" not in tok.decode(out[0, begin:])


PEN = {"name": "cigarette", "prompts": ["cigarette"]}
