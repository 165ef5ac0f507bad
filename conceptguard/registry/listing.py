"""What a registry lists, to look through: by reference, by its end, by words. Few in memory, many in a catalogue."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol, overload

from conceptguard.registry.index import Entry


class Listing(Protocol):
    """The entries of one source in order of their references."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Entry]: ...

    def get(self, ref: str) -> Entry | None:
        """The entry of a full reference."""

    def ending(self, ref: str) -> list[Entry]:
        """Those whose reference ends in `name`, `method/name` or is `family/method/name`."""

    def search(self, concept: str = "", method: str = "", base: str = "") -> Iterator[Entry]:
        """Those of a method and a family of bases whose concept, name or prompts contain a text in any case."""

    def like(self, text: str) -> list[Entry]:
        """Those whose name or concept might be meant by a mistyped one, and perhaps more."""

    def kinds(self, field: str) -> set[str]:
        """The values that `method` or `base` has."""


class Few:
    """A listing in memory."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = list(entries)
        self._by_ref: dict[str, Entry] | None = None

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def get(self, ref: str) -> Entry | None:
        """The entry of a full reference."""
        if self._by_ref is None:
            self._by_ref = {entry.ref: entry for entry in self.entries}
        return self._by_ref.get(ref)

    def ending(self, ref: str) -> list[Entry]:
        """See `Listing`."""
        return [entry for entry in self.entries if entry.ref.endswith("/" + ref) or entry.ref == ref]

    def search(self, concept: str = "", method: str = "", base: str = "") -> Iterator[Entry]:
        """See `Listing`."""
        wanted = concept.lower()
        for entry in self.entries:
            if method in ("", entry.method) and base in ("", entry.base) and wanted in words(entry):
                yield entry

    def like(self, text: str) -> list[Entry]:
        """All of them."""
        return self.entries

    def kinds(self, field: str) -> set[str]:
        """See `Listing`."""
        return {getattr(entry, field) for entry in self.entries}


def words(entry: Entry) -> str:
    """What an entry is searched by: its concept, name and prompts in small letters."""
    return "\n".join((entry.concept, entry.name, *entry.prompts)).lower()


class Entries(Sequence[Entry]):
    """The entries of several listings as one, each reference once, the first listing's; read as they are asked for."""

    def __init__(self, listings: Sequence[Listing]) -> None:
        self._listings = list(listings)
        # Few references are in two registries: looked up from the smaller side.
        self._hidden = [hidden(one, self._listings[:i]) for i, one in enumerate(self._listings)]

    def __len__(self) -> int:
        return sum(map(len, self._listings)) - sum(map(len, self._hidden))

    def __iter__(self) -> Iterator[Entry]:
        for listing, hidden in zip(self._listings, self._hidden):
            if hidden:
                yield from (entry for entry in listing if entry.ref not in hidden)
            else:
                yield from listing

    @overload
    def __getitem__(self, at: int) -> Entry: ...

    @overload
    def __getitem__(self, at: slice) -> list[Entry]: ...

    def __getitem__(self, at: int | slice) -> Entry | list[Entry]:
        if isinstance(at, slice):
            begin, end, step = at.indices(len(self))
            return list(islice(self, begin, end, step)) if step > 0 else list(self)[at]
        number = at + len(self) if at < 0 else at
        for entry in islice(self, max(number, 0), None):
            if number >= 0:
                return entry
        raise IndexError(at)


def hidden(listing: Listing, before: Sequence[Listing]) -> set[str]:
    """The references of a listing that one before it has as well."""
    found: set[str] = set()
    for other in before:
        small, large = sorted((other, listing), key=len)
        found |= {entry.ref for entry in small if large.get(entry.ref) is not None}
    return found


def searched(listings: Sequence[Listing], concept: str = "", method: str = "", base: str = "") -> Iterator[Entry]:
    """What fits in several listings, each reference once."""
    for number, listing in enumerate(listings):
        for entry in listing.search(concept, method, base):
            if all(other.get(entry.ref) is None for other in listings[:number]):
                yield entry


def nearest(ref: str, listings: Iterable[Listing]) -> list[str]:
    """At most three references that a mistyped one may mean, the likeliest first."""
    known = list(dict.fromkeys(entry.ref for listing in listings for entry in listing.like(ref.split("/")[-1])))
    ends = {end: full for full in known for end in (full, full.split("/", 1)[1], full.rsplit("/", 1)[1])}
    near = list(dict.fromkeys(ends[hit] for hit in difflib.get_close_matches(ref, list(ends), n=5, cutoff=0.5)))
    near += [full for full in known if ref and ref.split("/")[-1] in full and full not in near]
    return near[:3]
