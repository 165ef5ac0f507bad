"""Several registries, asked in order."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

from conceptguard.errors import ArtifactError, ConceptGuardError, RegistryError, meant
from conceptguard.files.paths import INDEX, MANIFEST, PICKLES, is_ref
from conceptguard.registry.index import Entry
from conceptguard.registry.listing import Entries, Few, Listing, nearest, searched
from conceptguard.registry.local import LocalSource
from conceptguard.registry.places import shipped_folder, user_folder
from conceptguard.registry.remote import RemoteSource
from conceptguard.registry.settings import registries, settings_file
from conceptguard.registry.signed.layout import BESIDE

if TYPE_CHECKING:
    from conceptguard.registry.artifact import Artifact
    from conceptguard.registry.signed.view import View

Source = LocalSource | RemoteSource
Trust = Literal["any", "signed"]
_APART = "is in a distribution of its own: pip install 'conceptguard[models]'"


class Registry:
    """Sources in order; where two have the same reference, the first one's counts.

    A source is a folder (`Path` or text), an address with a scheme (`https://…`, `hf://…`), or a source
    object.
    """

    def __init__(self, sources: Iterable[Source | Path | str]) -> None:
        self.sources: list[Source] = [_source(one) for one in sources]
        self._views: dict[str, View | None] = {}

    def entries(self) -> Sequence[Entry]:
        """All artifacts, each reference once, in the order of the sources.

        A remote source that can be neither asked nor remembered is left out with a warning: listing shows
        what there is.
        """
        listings = self._listings()
        if not all(isinstance(listing, Few) for listing in listings):
            return Entries(listings)
        found: dict[str, Entry] = {}
        for listing in listings:
            for entry in listing:
                found.setdefault(entry.ref, entry)
        return list(found.values())

    def search(self, concept: str = "", method: str = "", base: str = "") -> Iterator[Entry]:
        """The artifacts of a method and a family of bases whose concept, name or prompts contain a text, in any case.

        What is not given fits all. As with `entries`, each reference comes once, and what cannot be asked is left out.
        """
        return searched(self._listings(), concept, method, base)

    def words_like(self, field: str, word: str) -> set[str]:
        """Values of `method` or `base` that artifacts have, or concepts and names that resemble a mistyped one."""
        listings = self._listings()
        if field != "concept":
            return {value for listing in listings for value in listing.kinds(field)}
        return {value for listing in listings for one in listing.like(word) for value in (one.concept, one.name)}

    def _listings(self) -> list[Listing]:
        listings: list[Listing] = []
        for source in self.sources:
            try:
                listings.append(source.listing())
            except RegistryError as cause:
                if isinstance(source, LocalSource):
                    raise
                print(f"conceptguard: left out: {cause}", file=sys.stderr)
        return listings

    def find(self, ref: str, bases: Iterable[str] = ()) -> Entry:
        """The entry of `family/method/name`, or of its end (`method/name`, `name`) where only one fits.

        bases: families or fingerprints of a model that is known, nearest first: of several that fit, those for the
        first one that any is for count. Raises RegistryError with the nearest references on a miss, with the candidates
        where several fit.
        """
        return self._find(ref, bases)[1]

    def ending(self, ref: str) -> list[Entry]:
        """All that a reference, or its end, fits."""
        by_ref: dict[str, Entry] = {}
        for listing in self._listings() if ref else []:
            for entry in listing.ending(ref):
                by_ref.setdefault(entry.ref, entry)
        return list(by_ref.values())

    def _find(self, ref: str, bases: Iterable[str] = ()) -> tuple[Source, Entry]:
        if "://" in ref:
            return self._addressed(ref)
        if is_ref(ref):
            for source in self.sources:
                entry = source.find(ref)
                if entry is not None:
                    return source, entry
        fitting = self.ending(ref)
        if len(fitting) > 1:
            own = ([entry for entry in fitting if base and base in (entry.base, entry.fingerprint)] for base in bases)
            fitting = next(filter(None, own), fitting)
        if len(fitting) > 1:
            listed = ", ".join(entry.ref for entry in fitting[:6])
            raise RegistryError(f"{ref!r} fits several artifacts: {listed}: write one of them in full")
        if not fitting:
            near = nearest(ref, self._listings())
            meant = f"did you mean {', '.join(near)}?" if near else "see `conceptguard list`"
            raise RegistryError(f"no artifact {ref!r} in any registry: {meant}")
        entry = fitting[0]
        return next(source for source in self.sources if source.name == entry.source), entry

    def _addressed(self, address: str) -> tuple[Source, Entry]:
        """The entry of an address below one of the sources'. Raises RegistryError, which says how to name another."""
        plain = address.rstrip("/").removesuffix(f"/{MANIFEST}").removesuffix(f"/{INDEX}")
        for source in self.sources:
            ref = plain.removeprefix(f"{source.name}/")
            if ref != plain and (entry := source.find(ref)) is not None:
                return source, entry
        parts = plain.rsplit("/", 3)
        ref = "/".join(parts[1:])
        known = is_ref(ref) and "://" in f"{parts[0]}/"
        does = f"conceptguard pull {ref}" if known else "conceptguard list"
        registry = parts[0] if known else plain
        raise RegistryError(
            f"{address}: an address, in none of the registries that you named: name its registry, as in "
            f"`CONCEPTGUARD_REGISTRIES={registry} {does}`, or under `registries` in {settings_file()}"
        )

    def load(self, ref: str | Path, trust: Trust = "any", bases: Iterable[str] = ()) -> Artifact:
        """The artifact of a reference, of a folder with `artifact.yaml`, or of a published safetensors file.

        bases: see `find`; trust: `signed` takes only what somebody signed whose root is trusted. Raises RegistryError
        when there is none, ArtifactError when it must not be used.
        """
        path = _as_path(ref)
        if path is not None:
            artifact, source = _load_path(path), None
        else:
            source, full = self._holder(str(ref), bases)
            artifact = source.load(full)
        if trust == "signed" and not artifact.signed_by:
            raise ArtifactError(_unsigned(artifact, source))
        return artifact

    def _holder(self, ref: str, bases: Iterable[str]) -> tuple[Source, str]:
        """The source of an artifact and its full reference; a folder that has it is not asked for its entry as well."""
        for source in self.sources:
            if not isinstance(source, LocalSource):
                break
            if source.has(ref):
                return source, ref
        found, entry = self._find(ref, bases)
        return found, entry.ref

    def standing(self, entry: Entry) -> str:
        """Whose signature an entry's artifact has, `unsigned`, or why it must not be used any more.

        A registry whose signatures are not good is told of on standard error, and what it has is unsigned.
        """
        from conceptguard.registry.signed.sources import said_of

        if entry.source not in self._views:
            source = next((one for one in self.sources if one.name == entry.source), None)
            try:
                self._views[entry.source] = source.view() if source else None
            except ConceptGuardError as cause:
                print(f"conceptguard: called unsigned: {cause}", file=sys.stderr)
                self._views[entry.source] = None
        return said_of(self._views[entry.source], entry.ref, entry.sha256)

    def pull(self, ref: str) -> Artifact:
        """Fetch an artifact into the cache (nothing to do for a local one) and return it."""
        source, entry = self._find(ref)
        return source.pull(entry.ref)

    def model(self, name: str) -> Path:
        """The folder of an embedded model, e.g. `emoji-sd`. Raises RegistryError naming those there are."""
        for source in self.sources:
            folder = source.model(name)
            if folder is not None:
                return folder
        folders = [source for source in self.sources if isinstance(source, LocalSource)]
        if any(name in folder.apart() for folder in folders):
            raise RegistryError(f"model {name!r} {_APART}")
        known = sorted({model for source in self.sources for model in source.models()})
        hint = meant(name, known, f"there are {', '.join(known) or 'none'};")
        raise RegistryError(f"no embedded model {name!r}: {hint} or give a model's folder or Hub id")

    def add(self, artifact: Artifact | Path | str, into: Source | Path | str | None = None) -> Artifact:
        """Copy an artifact (or its folder) into a local source: `into`, or the first writable one. Replaces
        its namesake.
        """
        from conceptguard.registry.artifact import open_artifact

        target = self._writable() if into is None else _source(into)
        if not isinstance(target, LocalSource):
            raise RegistryError(f"{target.name}: not a folder: artifacts can be added to a local folder only")
        return target.add(open_artifact(artifact) if isinstance(artifact, (str, Path)) else artifact)

    def _writable(self) -> LocalSource:
        for source in self.sources:
            if isinstance(source, LocalSource) and source.writable:
                return source
        raise RegistryError("none of the registries can be written to: name a folder to add to")

    def remove(self, ref: str) -> Entry:
        """Delete an artifact from the source that has it, and return what it was. Raises RegistryError."""
        source, entry = self._find(ref)
        if not isinstance(source, LocalSource) or not source.writable:
            raise RegistryError(f"{entry.ref}: in {source.name}, which cannot be written to: nothing was removed")
        source.remove(entry.ref)
        return entry

    def verify(self, ref: str | None = None) -> list[dict[str, Any]]:
        """Check every byte of one artifact or of all: rows with `ref`, `source`, `ok`, `why`, `signed`, `bytes`,
        `files`; `signed` says by whom, or `unsigned`. Policies, suites and models of signed folders have rows too, by
        their paths, such as ``models/emoji-sd``.

        Remote artifacts that were never pulled are not fetched for this; their `why` says so and they count
        as good.
        """
        return list(self.verify_each(ref))

    def verify_each(self, ref: str | None = None) -> Iterator[dict[str, Any]]:
        """The rows of `verify`, one by one."""
        if ref is not None:
            if _is_beside(ref):
                folders = [source for source in self.sources if isinstance(source, LocalSource)]
                row = next((row for source in folders for row in _verify_beside(source, ref)), None)
                if row is None:
                    raise RegistryError(f"no {ref} in any signed folder: `conceptguard verify` says what there is")
                yield row
                return
            path = _as_path(ref)
            source, entry = (None, None) if path is not None else self._find(ref)
            yield _verified(entry.ref if entry else str(ref), source.name if source else "", lambda: self.load(ref))
            return
        for source in self.sources:
            if isinstance(source, LocalSource):
                yield from _verify_folder(source)
                yield from _verify_beside(source)
            else:
                yield from _verify_remote(source)


def _is_beside(ref: str) -> bool:
    """Whether it is the path of a policy, a suite or a model in a registry, and not one from here."""
    kind, _, name = ref.partition("/")
    return kind in BESIDE and name != "" and "/" not in name and not Path(ref).exists()


def _verify_beside(source: LocalSource, *places: str) -> Iterator[dict[str, Any]]:
    """Of the policies, suites and models of a folder, where it is signed."""
    try:
        view = source.view()
    except ConceptGuardError:  # which the row of every artifact says
        return
    if view is not None:
        from conceptguard.registry.signed.beside import rows

        apart = {f"models/{name}" for name in source.apart()}
        for row in rows(view, source.root, source.name, *places):
            if row["ref"] not in apart:
                yield row
            elif places:
                yield {**row, "why": _APART}


def _verified(ref: str, source: str, load: Any, why: str = "") -> dict[str, Any]:
    row: dict[str, Any] = {"ref": ref, "source": source, "ok": True, "why": why, "signed": "", "bytes": 0, "files": 0}
    try:
        if not why:
            artifact = load()
            row |= {"bytes": artifact.verify(), "files": len(artifact.manifest.files)}
            row["signed"] = artifact.signed_by or "unsigned"
    except ConceptGuardError as cause:
        row |= {"ok": False, "why": str(cause)}
    return row


def _verify_folder(source: LocalSource) -> Iterator[dict[str, Any]]:
    on_disk = [
        path.parent.relative_to(source.root).as_posix() for path in sorted(source.root.glob(f"*/*/*/{MANIFEST}"))
    ]
    listed: dict[str, Entry] = {}
    try:
        listed = {entry.ref: entry for entry in source.entries()}
    except ConceptGuardError as cause:
        yield {
            "ref": "index.json",
            "source": source.name,
            "ok": False,
            "why": str(cause),
            "signed": "",
            "bytes": 0,
            "files": 0,
        }
    for ref in on_disk:
        row = _verified(ref, source.name, lambda ref=ref: source.load(ref))
        if row["ok"] and listed and ref not in listed:
            row |= {"ok": False, "why": "not in the index: `conceptguard add` the folder"}
        elif row["ok"] and listed and source.find(ref) != listed[ref]:
            row |= {"ok": False, "why": "the index tells something else: `conceptguard add` the folder again"}
        yield row
    for ref in sorted(set(listed) - set(on_disk)):
        why = "in the index but not on disk: `conceptguard remove` it"
        yield {"ref": ref, "source": source.name, "ok": False, "why": why, "signed": "", "bytes": 0, "files": 0}


def _verify_remote(source: RemoteSource) -> Iterator[dict[str, Any]]:
    try:
        entries = source.entries()
    except ConceptGuardError as cause:
        yield {
            "ref": "index.json",
            "source": source.name,
            "ok": False,
            "why": str(cause),
            "signed": "",
            "bytes": 0,
            "files": 0,
        }
        return
    for entry in entries:
        why = "" if source.pulled(entry.ref) else "not pulled yet"
        yield _verified(entry.ref, source.name, lambda ref=entry.ref: source.load(ref), why)


def _unsigned(artifact: Artifact, source: Source | None) -> str:
    from conceptguard.registry.signed.sources import has_metadata

    said = f"{artifact.ref}: unsigned, and the policy has `trust: signed`"
    if source is None:
        return f"{said}: a path has no signatures: name it by its reference in a signed registry"
    if isinstance(source, LocalSource) and has_metadata(source.root) and source.view() is not None:
        return f"{said}: it came into {source.name} after that was signed: `conceptguard sign {source.root}`"
    return (
        f"{said}: nobody's signature on {source.name} is trusted here: `conceptguard registry trust {source.name}`, or "
        "ask its keeper to sign it"
    )


def _source(one: Source | Path | str) -> Source:
    if isinstance(one, (LocalSource, RemoteSource)):
        return one
    if isinstance(one, str) and one.startswith("file://"):
        return LocalSource(url2pathname(urlsplit(one).path))
    if isinstance(one, str) and "://" in one:
        return RemoteSource(one)
    return LocalSource(Path(one).expanduser())


def _as_path(ref: str | Path) -> Path | None:
    """The path that `ref` means, if it does not mean a reference."""
    if isinstance(ref, Path):
        return ref
    written = ref.startswith((".", "/", "~")) or Path(ref).is_absolute() or "\\" in ref
    named = Path(ref).suffix.lower() in PICKLES | {".safetensors", ".yaml"}
    if "://" in ref:
        return None
    if written or named or (not is_ref(ref) and (Path(ref) / MANIFEST).is_file()):
        return Path(ref).expanduser()
    return None


def _load_path(path: Path) -> Artifact:
    from conceptguard.registry.artifact import open_artifact

    if path.name == MANIFEST:
        path = path.parent
    if path.is_dir() and (path / MANIFEST).is_file():
        return open_artifact(path)
    if not path.exists():
        raise ArtifactError(f"{path}: no such file or folder: check the path, or see `conceptguard list`")
    from conceptguard.registry.importer import open_published

    return open_published(path)


def default_registry() -> Registry:
    """Shipped, the user's own, then those in CONCEPTGUARD_REGISTRIES or in the settings file."""
    shipped = LocalSource(shipped_folder(), writable=False, name="shipped", packaged=True)
    user = LocalSource(user_folder(), name="user")
    return Registry([shipped, user, *registries()])
