"""Regular expressions from a stranger's file, matched in time that grows with the text and not with its tricks.

peft reads the keys of `alpha_pattern` as expressions. Python's matcher goes back and tries again, and a few characters
can keep it busy for years; this one follows all ways at once. What it does not know is an error, never a miss.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from conceptguard.errors import ArtifactError

MAX_LENGTH = 1000
MAX_NESTING = 3

Ends = Callable[[str, frozenset[int]], frozenset[int]]

_REPEAT = re.compile(r"(?:[*+?]|\{(?=[\d,])(\d*)(?:(,)(\d*))?\})")
_SET = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]")
_ESCAPE = re.compile(r"\\(?:[dDwWsS]|[^\w])")
_GROUP = re.compile(r"\((?:\?:|\?P<[A-Za-z_]\w*>|(?!\?))")


def matches(pattern: str, layer: str) -> bool:
    """Whether peft takes `pattern` for `layer`: the whole name, or all of it behind one of its dots.

    Raises ArtifactError for an expression that is wrong, or that cannot be followed here.
    """
    ends = _compiled(pattern)
    starts = frozenset([0, *(i + 1 for i, letter in enumerate(layer) if letter == ".")])
    return len(layer) in ends(layer, starts)


@lru_cache(maxsize=1 << 14)
def _compiled(pattern: str) -> Ends:
    if len(pattern) > MAX_LENGTH:
        raise _unread(pattern, f"longer than {MAX_LENGTH} characters")
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as cause:
        raise _unread(pattern, f"not one: {cause}") from None
    ends, rest = _either(pattern, 0, 0)
    if rest != len(pattern):
        raise _unread(pattern, f"not followed at character {rest}")
    return ends


def _unread(pattern: str, why: str) -> ArtifactError:
    return ArtifactError(
        f"the LoRA's configuration has the regular expression {pattern[:80]!r} ({why}): name the layers"
    )


def _either(pattern: str, at: int, nested: int) -> tuple[Ends, int]:
    ways = []
    while True:
        way, at = _row(pattern, at, nested)
        ways.append(way)
        if at >= len(pattern) or pattern[at] != "|":
            return (ways[0] if len(ways) == 1 else lambda t, s: frozenset().union(*(w(t, s) for w in ways))), at
        at += 1


def _row(pattern: str, at: int, nested: int) -> tuple[Ends, int]:
    steps: list[Ends] = []
    while at < len(pattern) and pattern[at] not in "|)":
        group = _GROUP.match(pattern, at)
        if group:
            if nested >= MAX_NESTING:
                raise _unread(pattern, f"nested deeper than {MAX_NESTING}")
            step, at = _either(pattern, group.end(), nested + 1)
            at += 1
        elif pattern[at] in "^$":
            step, at = (_at_start if pattern[at] == "^" else _at_end), at + 1
        else:
            step, at = _letter(pattern, at)
        repeat = _REPEAT.match(pattern, at)
        if repeat:
            step, at = _repeated(step, repeat), repeat.end()
            if pattern[at : at + 1] == "?":  # the lazy kind finds the same
                at += 1
            elif pattern[at : at + 1] == "+":
                raise _unread(pattern, "a possessive repeat is not followed here")
        steps.append(step)

    def follow(text: str, starts: frozenset[int]) -> frozenset[int]:
        for step in steps:
            if not starts:
                break
            starts = step(text, starts)
        return starts

    return follow, at


def _letter(pattern: str, at: int) -> tuple[Ends, int]:
    found = _SET.match(pattern, at) or _ESCAPE.match(pattern, at)
    if found is None and pattern[at] in "\\[(":
        raise _unread(pattern, f"{pattern[at : at + 3]!r} is not followed here")
    written = found.group() if found else pattern[at]
    fits = re.compile(written if found or written == "." else re.escape(written)).fullmatch
    return lambda t, s: frozenset(i + 1 for i in s if i < len(t) and fits(t[i])), at + len(written)


def _at_start(text: str, starts: frozenset[int]) -> frozenset[int]:
    return starts & {0}


def _at_end(text: str, starts: frozenset[int]) -> frozenset[int]:
    return starts & {len(text)}


def _repeated(step: Ends, repeat: re.Match[str]) -> Ends:
    least, comma, most = repeat.groups()
    if repeat.group() in ("*", "+", "?"):
        low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}[repeat.group()]
    else:
        low = int(least or 0)
        high = (int(most) if most else None) if comma else low

    def follow(text: str, starts: frozenset[int]) -> frozenset[int]:
        for _ in range(low):
            after = step(text, starts)
            if after == starts:
                break
            starts = after
        reached, new, turns = starts, starts, low
        while new and (high is None or turns < high):
            new = step(text, new) - reached
            reached, turns = reached | new, turns + 1
        return reached

    return follow
