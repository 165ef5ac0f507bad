"""Token streams: whatever tokens a model wants to say, in whatever pieces, a phrase of the bank does not leave; a text
that has nothing to do with it leaves token by token as it was wanted.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Any

import torch
from fuzzing import fuzz
from hypothesis import strategies as st
from tiny_language import Listener, tiny_llama, tokenizer

import conceptguard
from tools.spellings import insisting

PHRASES = ("cigarette", "Elena Vossberg", "New York", "red dog", "C++")
POLICY = {"guards": [{"method": "phrases", "concept": {"name": "x", "prompts": list(PHRASES)}}]}
ORDINARY = ["The sun was", " warm", "a ", "cigar", "Elena", " Vo", "new", " ", " York", "dog", "red", ", ", "\n", "C",
            "+", "penguin", "東京", "٣", "👍🏽", "-", ".", "e", "tte", "s"]  # fmt: skip
SAID = [
    *PHRASES,
    "ELENA\nVossberg",
    "c i g a r e t t e",
    "N-e-w York",
    "a red  dog.",
    "cig-arette",
    "сigarette",
    "C++ ",
]
TEXTS = st.lists(st.sampled_from(ORDINARY) | st.sampled_from(SAID) | st.text("abegirtt +", max_size=4), min_size=1,
                 max_size=5).map("".join).filter(bool)  # fmt: skip
CUTS = st.lists(st.integers(1, 8), min_size=1, max_size=8)
TOKENS = st.lists(st.integers(0, 599), max_size=3)
ROW = st.tuples(st.sampled_from(["", "A man said:", "Elena", "a cig", "Nobody: a red"]), TEXTS, CUTS, TOKENS,
                st.integers(0, 20))  # fmt: skip
KINDS = st.sampled_from(["bytes", "sentencepiece"])


@cache
def guarded(kind: str) -> tuple[Any, Any, Any, dict[bytes, int]]:
    tok = tokenizer(kind)
    model = tiny_llama(tok)
    processor = conceptguard.logits_processor(model, tok, POLICY)
    pieces = processor.session.host.vocabulary.pieces
    return model, tok, processor, {piece: i for i, piece in enumerate(pieces) if piece}


def cut(text: str, sizes: list[int], known: dict[bytes, int]) -> list[int]:
    """A text in tokens of at most so many bytes, turn by turn: cut anywhere, also amid the bytes of a letter."""
    data, ids = text.encode(), []
    while data:
        most = sizes[len(ids) % len(sizes)]
        size = next(size for size in range(min(most, len(data)), 0, -1) if data[:size] in known)
        ids.append(known[data[:size]])
        data = data[size:]
    return ids


def stream(row: Any, tok: Any, known: dict[bytes, int]) -> tuple[list[int], list[int]]:
    """The tokens of a prompt, and those that are wanted after it: a text with tokens of any kind amid it."""
    prompt, text, sizes, strange, at = row
    wanted = cut(text, sizes, known)
    at %= len(wanted) + 1
    own = [i for i in strange if i < len(tok) and i not in (tok.eos_token_id, tok.pad_token_id)]
    return tok(prompt).input_ids or [tok.bos_token_id], wanted[:at] + own + wanted[at:]


def plain(text: str) -> str:
    """As a reader sees it: no letter is drawn for a control character."""
    seen = (c for c in text if c.isspace() or not unicodedata.category(c).startswith("C"))
    return unicodedata.normalize("NFKD", "".join(seen)).casefold()


def texts_of(tok: Any, ids: list[int]) -> set[str]:
    """What tokens say: as they are decoded and read from their bytes. The decoder of sentencepiece's tokenizers has no
    letter at all of those that come as bytes beside a byte that is none; other programs have them."""
    said = str(tok.decode(ids, skip_special_tokens=True))
    if "\ufffd" not in said or "<0x00>" not in tok.get_vocab():
        return {said}
    names = tok.convert_ids_to_tokens([i for i in ids if i not in tok.all_special_ids])
    one = [bytes([int(n[3:5], 16)]) if re.fullmatch("<0x..>", n) else n.replace("\u2581", " ").encode() for n in names]
    return {said, b"".join(one).decode("utf-8", "replace")}


def says(tok: Any, prompt: list[int], own: list[int]) -> str | None:
    """The phrase that a reader finds, one that begins in the prompt as well; not the product's way of reading."""
    begun = min(len(plain(text)) for text in texts_of(tok, prompt))
    for phrase in PHRASES:
        words = r"\s+".join(map(re.escape, plain(phrase).split()))
        for whole in texts_of(tok, prompt + own):
            for found in re.finditer(rf"(?<![\w+]){words}(?![\w+])", plain(whole)):
                if found.end() > begun:
                    return phrase
    return None


def unlike(tok: Any, ids: list[int]) -> bool:
    """Whether a text has nothing to do with any phrase: not even all but the last word of one, however spaced."""
    begun = {"c" if phrase == "C++" else plain(phrase).split()[0] for phrase in PHRASES}

    def free(text: str) -> bool:
        letters = re.sub(r"[^a-z]", "", text)
        return all(c.isascii() or c in "東京٣👍🏽\ufffd" for c in text) and not any(word in letters for word in begun)

    return all(free(plain(text)) for text in texts_of(tok, ids))


@fuzz(120, 12_000, kind=KINDS, rows=st.lists(ROW, min_size=1, max_size=3), seed=st.integers(0, 99))
def test_what_a_processor_lets_through(kind: str, rows: list[Any], seed: int) -> None:
    """A loop that says what is likeliest, and in whose scores the wanted token is, row by row of a batch."""
    _, tok, processor, known = guarded(kind)
    streams = [stream(row, tok, known) for row in rows]
    width, longest = max(len(prompt) for prompt, _ in streams), max(len(wanted) for _, wanted in streams)
    ids = torch.tensor([[tok.pad_token_id] * (width - len(prompt)) + prompt for prompt, _ in streams])
    chance = torch.Generator().manual_seed(seed)
    for at in range(longest):
        scores = torch.randn(len(rows), len(tok), generator=chance)
        for row, (_, wanted) in enumerate(streams):
            scores[row, wanted[at] if at < len(wanted) else tok.eos_token_id] = 60.0
        ids = torch.cat([ids, processor(ids, scores).argmax(-1, keepdim=True)], -1)
    for row, (prompt, wanted) in enumerate(streams):
        own = ids[row, width:].tolist()[: len(wanted)]
        assert says(tok, prompt, own) is None, (tok.decode(own), own)
        if unlike(tok, prompt + wanted):
            assert own == wanted, (tok.decode(wanted), tok.decode(own))


WAYS = st.sampled_from([{}, {"do_sample": True}, {"num_beams": 2}, {"use_cache": False}, {"streamer": True}])


@fuzz(15, 1_000, kind=KINDS, row=ROW, way=WAYS, seed=st.integers(0, 99))
def test_what_a_guarded_model_says(kind: str, row: Any, way: dict[str, Any], seed: int) -> None:
    """``generate`` of a model that insists on the stream: what was begun is taken back, and nothing is streamed before
    it is certain."""
    model, tok, _, known = guarded(kind)
    prompt, wanted = stream(row, tok, known)
    heard = Listener()
    more = {**way, "streamer": heard} if "streamer" in way else way
    torch.manual_seed(seed)
    with insisting(model, wanted, len(prompt)), conceptguard.attach((model, tok), POLICY):
        out = model.generate(input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=int),
                             max_new_tokens=len(wanted), pad_token_id=tok.pad_token_id, **more)  # fmt: skip
    own = out[0, len(prompt) :].tolist()
    assert says(tok, prompt, own) is None, (tok.decode(own), own)
    if "streamer" in way:
        assert heard.heard == prompt + own
    if unlike(tok, prompt + wanted):
        assert own == wanted, (tok.decode(wanted), tok.decode(own))


def test_what_was_heard_is_not_taken_back() -> None:
    """A phrase of several words is regretted from its first on, which a stream had let go: it stays, unfinished."""
    model, tok, _, known = guarded("sentencepiece")
    row = ("Nobody: a red", "penguincig-arette+bg+N-e-w YorkC++", [5, 4, 6, 6], [598, 79, 598], 1)
    prompt, wanted = stream(row, tok, known)
    heard = Listener()
    with insisting(model, wanted, len(prompt)), conceptguard.attach((model, tok), POLICY) as session:
        out = model.generate(input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=int),
                             max_new_tokens=len(wanted), pad_token_id=tok.pad_token_id, streamer=heard)  # fmt: skip
        assert "had been heard" in str(session.receipt)
    own = out[0, len(prompt) :].tolist()
    assert heard.heard == prompt + own and says(tok, prompt, own) is None
