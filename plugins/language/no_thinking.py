"""Skips explicit reasoning where a model marks it: what is not thought aloud cannot say what an answer would not.

Ma et al., "Reasoning Models Can Be Effective Without Thinking", 2025: a thinking block that is closed at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import Field

from conceptguard.errors import PolicyError
from conceptguard.generation.decoding import Decoding
from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings
from conceptguard.text.lineage import Follow

_TAIL = 64  # bytes in which a mark is looked for; a mark may be split among tokens


class NoThinkingSettings(Settings):
    """opens, closes: the marks around reasoning; between: what stands there instead"""

    opens: str = Field(default="<think>", min_length=1, max_length=_TAIL // 2)
    closes: str = Field(default="</think>", min_length=1, max_length=_TAIL // 2)
    between: str = "\n\n"


class _Block(NamedTuple):
    """tail: the last bytes said, after the last mark; said: how many tokens of the closing have been said, None outside
    of a block."""

    tail: bytes
    said: int | None


class NoThinking(Method):
    """Text: closes a block of reasoning as soon as it opens.

    Where the opening mark has been said, by the model or by a template, the closing one is all that follows.
    """

    name = "no_thinking"
    needs = "nothing"
    Settings = NoThinkingSettings

    def __init__(self, *args: Any):
        super().__init__(*args)
        opens, closes, between = self.settings.opens, self.settings.closes, self.settings.between
        if opens == closes or opens in between or closes in between:
            raise PolicyError(f"guard 'no_thinking': {opens!r} and {closes!r} must differ, and not stand in between")
        self._marks = opens.encode(), closes.encode()
        # A mark that is a special token stands for nothing on paper, and yet opens and closes.
        tokenizer = self.host.tokenizer
        self._spoken = {tokenizer.convert_tokens_to_ids(m): m.encode() for m in (opens, closes)
                        if m in tokenizer.get_vocab()}  # fmt: skip
        (self._closing,) = self.host.vocabulary.encode([f"{between}{closes}"])
        self._blocks = Follow(lambda: _Block(b"", None), self._advance)

    def _advance(self, block: _Block, token: int, first: bool) -> _Block:
        pieces = self.host.vocabulary.pieces
        piece = self._spoken.get(token) or (pieces[token] if token < len(pieces) else b"") or b""
        opens, closes = self._marks
        said = None if first and block.tail.strip() else block.said  # a prompt that only speaks of the mark
        tail = (block.tail + piece)[-_TAIL:]
        if said is None:
            return _Block(tail.split(opens)[-1], 0) if opens in tail else _Block(tail, None)
        if closes in tail:
            return _Block(tail.split(closes)[-1], None)
        return _Block(tail, said + (said < len(self._closing) and token == self._closing[said]))

    @hookimpl
    def process_logits(self, decoding: Decoding) -> None:
        """Inside a block, the next token of its closing."""
        begins = decoding.ids.shape[1] == decoding.begin
        for row, block in enumerate(self._blocks(decoding)):
            if block.said is not None and decoding.live(row) and not (begins and block.tail.strip()):
                decoding.force(self, self._closing[min(block.said, len(self._closing) - 1)], row)
