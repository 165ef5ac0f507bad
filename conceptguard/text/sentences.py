"""Where the sentences of a text end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

_ENDS = re.compile(r"(?<=[.!?\u2026])[\"')\]\u201d\u2019]*(?=\s)|(?<=[\u3002\uff01\uff1f])|(?=\n)")


def sentences(text: str, ended: bool) -> Iterator[tuple[int, str]]:
    """(place of its first character, sentence) of the finished sentences; ``ended``: the last one is finished, too."""
    begin = 0
    for match in _ENDS.finditer(text):
        if found := text[begin : match.end()].strip():
            yield begin + text[begin:].index(found[0]), found
        begin = match.end()
    if ended and (found := text[begin:].strip()):
        yield begin + text[begin:].index(found[0]), found


def token_at(decode: Callable[[Sequence[int]], str], ids: Sequence[int], place: int) -> int:
    """How many tokens stand wholly before a character of their text."""
    low, high = 0, len(ids) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if len(decode(ids[:middle])) <= place:
            low = middle
        else:
            high = middle - 1
    return max(low, 0)
