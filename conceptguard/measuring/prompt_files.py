"""Rows of named values out of whatever somebody keeps prompts in: CSV, JSON, Parquet, text, alone, in a folder, or in a
package file, which is read as the archive it is and never installed.

A file that is cut short, or whose rows do not fit its first line, is an error that names the row: a benchmark of 4,700
rows out of 4,703 gives figures that nobody can compare.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import RegistryError, shown

MOST_BYTES = 256 * 1024 * 1024
ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar")

Row = Mapping[str, Any]


def read_rows(source: str | Path) -> list[tuple[str, Row]]:
    """(where it stands, its values by name) of every row, in the order of the files.

    source: a .csv, .tsv, .json, .jsonl, .parquet or .txt file; a folder with one of these, or with numbered parts of
    one; a wheel, zip or tar that has one; ``ARCHIVE/path/inside.csv`` or ``FOLDER/file.csv`` where there are several.

    Raises RegistryError for what is missing, ambiguous, cut short, or not what its name says.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return [row for part in _parts(path) for row in _read(str(part), part.name, _bytes(part))]
    archive = next((one for one in (path, *path.parents) if one.is_file()), None)
    if archive is None:
        raise RegistryError(f"no prompts at {path}: give a file, a folder or a package file that is there")
    if archive.name.lower().endswith(ARCHIVES):
        inside = PurePosixPath(*path.parts[len(archive.parts) :])
        name, data = _member(archive, "" if inside == PurePosixPath() else str(inside))
        return list(_read(f"{archive}/{name}", name, data))
    if archive != path:
        raise RegistryError(f"{archive} is a file, and nothing can be inside it: give it alone")
    return list(_read(str(path), path.name, _bytes(path)))


def _parts(folder: Path) -> list[Path]:
    """The one file of prompts that a folder has, or all parts of it, as data sets are cut: name-00000-of-00002."""
    files = sorted(one for one in folder.rglob("*") if one.suffix.lower() in READERS and one.is_file())
    files = [one for one in files if not one.name.lower().startswith(("readme", "license", "requirements"))]
    if len(files) > 1:
        stem, dash, last = files[0].stem.rpartition("-of-")
        total = int(last) if dash and last.isdigit() else 0
        begin = stem.rpartition("-")[0]
        if total and len(files) == total and all(one.name.startswith(f"{begin}-") for one in files):
            return files
        if total and all(one.name.startswith(f"{begin}-") for one in files):
            raise RegistryError(f"{folder}: {len(files)} of {total} parts are there: fetch the others")
    if len(files) != 1:
        there = ", ".join(str(one.relative_to(folder)) for one in files[:12])
        raise RegistryError(
            f"{folder}: {f'several files ({there})' if files else 'no file of prompts'}: name one, as {folder}/FILE.csv"
        )
    return files


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise RegistryError(f"{path}: larger than {MOST_BYTES:,} bytes: give the part that is wanted")
        return path.read_bytes()
    except OSError as error:
        raise RegistryError(f"{path}: cannot be read ({error.strerror}): check the path") from None


def _member(archive: Path, inside: str) -> tuple[str, bytes]:
    """A file out of a package, by its path in it; the only one of prompts where none is named."""
    try:
        if archive.name.lower().endswith((".whl", ".zip")):
            with zipfile.ZipFile(archive) as opened:
                sizes = {one.filename: one.file_size for one in opened.infolist() if not one.is_dir()}
                name = _chosen(archive, sizes, inside)
                return name, opened.read(name)
        with tarfile.open(archive) as opened_tar:
            sizes = {one.name: one.size for one in opened_tar if one.isfile()}
            name = _chosen(archive, sizes, inside)
            file = opened_tar.extractfile(name)
            assert file is not None
            return name, file.read()
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, RuntimeError) as error:
        raise RegistryError(f"{archive}: no whole archive ({error}): fetch it again") from None


def _chosen(archive: Path, sizes: Mapping[str, int], inside: str) -> str:
    names = sorted(name for name in sizes if Path(name).suffix.lower() in READERS and ".dist-info/" not in name)
    # An sdist has one folder around everything.
    found = [name for name in sizes if name == inside or name.endswith(f"/{inside}")] if inside else names
    if len(found) != 1:
        what = "no file of that name" if inside and not found else "several files" if found else "no file of prompts"
        there = f"; it has {', '.join(names[:20])}" if names else ""
        raise RegistryError(f"{archive}: {what}: name one as {archive.name}/PATH{there}")
    if sizes[found[0]] > MOST_BYTES:
        raise RegistryError(f"{archive}/{found[0]}: larger than {MOST_BYTES:,} bytes: give the part that is wanted")
    return found[0]


def _read(where: str, name: str, data: bytes) -> Iterator[tuple[str, Row]]:
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in READERS:
        raise RegistryError(f"{where}: give a {', '.join(READERS)} file, a folder, or a package file")
    return READERS[suffix](where, data)


def _text(where: str, data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RegistryError(f"{where}: not UTF-8 text (byte {error.start}): save it as UTF-8") from None
    if "\0" in text:
        raise RegistryError(f"{where}: holds a NUL character: it is cut short or no text; fetch it again")
    return text


def _table(where: str, data: bytes, delimiter: str = ",") -> Iterator[tuple[str, Row]]:
    text = _text(where, data)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = next(rows, [])
        for values in rows:
            place = f"{where}, line {rows.line_num}"
            if not values:
                continue
            if len(values) != len(names):
                raise RegistryError(
                    f"{place}: {len(values)} values where the first line names {len(names)} columns: the file is cut "
                    "short, or a text with a comma stands without quotes; mend the line"
                )
            yield place, dict(zip(names, values))
    except csv.Error as error:
        raise RegistryError(f"{where}, line {rows.line_num}: {error}: the file is cut short; fetch it again") from None


def _lines(where: str, data: bytes) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(_text(where, data).splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield f"{where}, line {number}", {"prompt": line.strip()}


def _objects(where: str, data: bytes) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(_text(where, data).splitlines(), 1):
        if line.strip():
            yield _object(f"{where}, line {number}", _json(f"{where}, line {number}", line))


def _list(where: str, data: bytes) -> Iterator[tuple[str, Row]]:
    found = _json(where, _text(where, data))
    if isinstance(found, dict) and all(isinstance(values, dict) for values in found.values()):
        found = list(found.values())  # rows by their own key
    if not isinstance(found, list):
        raise RegistryError(f'{where}: no list of rows: write [{{"prompt": TEXT}}, …]')
    for number, row in enumerate(found, 1):
        yield _object(f"{where}, row {number}", row)


def _json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise RegistryError(f"{where}: not JSON ({shown(error)}): it is cut short, or something else") from None


def _object(where: str, found: Any) -> tuple[str, Row]:
    if isinstance(found, str):
        return where, {"prompt": found}
    if not isinstance(found, dict):
        raise RegistryError(f'{where}: neither a text nor an object: write {{"prompt": TEXT}}')
    return where, found


def _parquet(where: str, data: bytes) -> Iterator[tuple[str, Row]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise RegistryError(
            f'{where}: reading Parquet needs pyarrow: pip install "conceptguard[parquet]", or give a CSV'
        ) from None
    try:
        table = parquet.read_table(io.BytesIO(data))
    except Exception as error:  # pyarrow's own, of several kinds
        raise RegistryError(f"{where}: no whole Parquet file ({shown(error)}): fetch it again") from None
    for number, row in enumerate(table.to_pylist(), 1):
        yield f"{where}, row {number}", row


READERS: dict[str, Callable[[str, bytes], Iterator[tuple[str, Row]]]] = {
    ".csv": _table, ".tsv": lambda where, data: _table(where, data, "\t"), ".json": _list, ".jsonl": _objects,
    ".ndjson": _objects, ".parquet": _parquet, ".txt": _lines,
}  # fmt: skip
