"""Pictures that say under which policy they were made: what is in them, what is not, and what is not believed."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from commands import reported, said
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from signers import signer

import conceptguard
from conceptguard.errors import ConceptGuardError
from conceptguard.receipt import Act, Receipt, Row, Verdict
from conceptguard.records.credentials import Credentials
from conceptguard.records.pictures import read_picture, save_picture

SECRET = "a secret cigarette"


@pytest.fixture
def receipt() -> Receipt:
    """Of two pictures, of which the second one opened a guard, made it say so, and was flagged."""
    acts = [
        Act("spm cigarette", 1.0, 3, "unsigned", gates=[0, 0, 0, 1], steps=[0, 1], notes=[f"read {SECRET!r}"]),
        Act("probe", 1.0),
        Act("phrases", 1.0, notes=["stands aside: not for pictures"]),
    ]  # fmt: skip
    rows = [
        Row("", "unconditional"),
        Row("", "unconditional"),
        Row("a red apple", "conditional"),
        Row(SECRET, "conditional"),
    ]
    verdicts = [Verdict(0, "probe", "cigarette", 0.1, False), Verdict(1, "probe", "cigarette", 0.98765, True)]
    return Receipt("school", "diffusers X", "cpu", "float32", acts, rows, verdicts, action="blur", steps=2, seconds=1.5)


@pytest.fixture
def picture() -> Image.Image:
    return Image.effect_noise((64, 64), 60).convert("RGB")


def test_a_summary_is_of_one_picture(receipt: Receipt) -> None:
    first, second, both = receipt.summary(image=0), receipt.summary(image=1), receipt.summary()
    assert not first["acted"] and first["action"] is None and len(first["verdicts"]) == 1
    assert [(act["guard"], act["open"], act["steps"]) for act in second["acted"]] == [("spm cigarette", 1, 2)]
    assert second["action"] == "blur" and second["verdicts"][0]["score"] == 0.9877
    assert len(both["verdicts"]) == 2 and both["guards"] == 3 and both["unsigned"] == ["spm cigarette"]
    assert SECRET not in json.dumps([first, second, both])
    assert receipt.summary(prompts=True, image=1)["prompts"] == [SECRET]
    assert SECRET in receipt.summary(prompts=True)["acted"][0]["notes"][0]


def test_metadata_comes_back(picture: Image.Image, receipt: Receipt, tmp_path: Path) -> None:
    """The pixels and what others wrote stay; of the prompt there is nothing unless that is asked for."""
    picture.info["parameters"] = "made by a web UI"
    file = save_picture(picture, tmp_path / "own.png", receipt, number=1)
    with Image.open(file) as saved:
        assert saved.tobytes() == picture.tobytes() and saved.info["parameters"] == "made by a web UI"
    told = read_picture(file)
    assert told.text == {"conceptguard": conceptguard.__version__, **receipt.summary(image=1)}
    assert told.credentials is None and told.state is None
    assert SECRET.encode() not in file.read_bytes()
    assert SECRET in str(read_picture(save_picture(picture, file, receipt, prompts=True, number=1)).text)


def test_credentials_come_back_and_bind_the_picture(picture: Image.Image, receipt: Receipt, tmp_path: Path) -> None:
    who = Credentials.of(signer(tmp_path / "keys"))
    file = save_picture(picture, tmp_path / "own.png", receipt, number=1, credentials=who)
    told = read_picture(file)
    assert told.state == "Valid" and told.signer == "A School"  # of an authority that nobody here trusts
    assert told.credentials == told.text
    content = file.read_bytes()
    assert SECRET.encode() not in content
    begin = content.index(b"iTXt")
    size = int.from_bytes(content[begin - 4 : begin], "big")
    chunk = content[begin : begin + 4 + size].replace(b'"policy": "school"', b'"policy": "church"')
    file.write_bytes(content[:begin] + chunk + _crc(chunk) + content[begin + len(chunk) + 4 :])
    told = read_picture(file)
    assert told.state == "Invalid" and told.text is not None and told.text["policy"] == "church"


def test_credentials_of_what_it_was_made_from_are_kept(picture: Image.Image, receipt: Receipt, tmp_path: Path) -> None:
    first, second = (Credentials.of(signer(tmp_path / name, name)) for name in ("Somebody", "Another"))
    source = save_picture(picture, tmp_path / "source.png", receipt, credentials=first)
    file = save_picture(picture.rotate(90), tmp_path / "own.png", receipt, credentials=second, source=source)
    told = read_picture(file)
    assert (told.state, told.signer, told.ingredients) == ("Valid", "Another", ("source.png",))
    import c2pa

    with c2pa.Reader("image/png", io.BytesIO(file.read_bytes())) as reader:
        signers = {one["signature_info"]["common_name"] for one in json.loads(reader.json())["manifests"].values()}
    assert signers == {"Somebody", "Another"}


def test_what_cannot_be_signed_is_not_left_behind(picture: Image.Image, receipt: Receipt, tmp_path: Path) -> None:
    keys, out = signer(tmp_path / "keys"), tmp_path / "own.png"
    (keys / "key.pem").write_text("no key")
    with pytest.raises(ConceptGuardError, match=r"cannot be given content credentials .*key\.pem"):
        save_picture(picture, out, receipt, credentials=Credentials.of(keys))
    (keys / "key.pem").unlink()
    with pytest.raises(ConceptGuardError, match=r"key\.pem: no such file"):
        Credentials.of(keys)
    with pytest.raises(ConceptGuardError, match="give credentials as well"):
        save_picture(picture, out, receipt, source=out)
    with pytest.raises(ConceptGuardError, match=r"ends in \.png"):
        save_picture(picture, tmp_path / "own.jpg", receipt)
    assert not out.exists()


def test_what_strangers_wrote(picture: Image.Image, tmp_path: Path) -> None:
    """No picture, no text of ours, text that is no receipt, credentials that are none."""
    file = tmp_path / "own.png"
    picture.save(file)
    assert read_picture(file) == read_picture(file).__class__(None, None, None)
    for text in ("[1]", "{", "[" * 100_000):
        info = PngInfo()
        info.add_itxt("conceptguard", text)
        picture.save(file, pnginfo=info)
        assert read_picture(file).text is None
    content = file.read_bytes()
    chunk = b"caBX" + b"\0\0\0\x10jumb" + b"x" * 8
    file.write_bytes(content[:33] + (len(chunk) - 4).to_bytes(4, "big") + chunk + _crc(chunk) + content[33:])
    assert read_picture(file).state == "Invalid"
    file.write_bytes(b"nothing")
    with pytest.raises(ConceptGuardError, match="no picture that can be read"):
        read_picture(file)


def _crc(chunk: bytes) -> bytes:
    return zlib.crc32(chunk).to_bytes(4, "big")


def test_show_tells(picture: Image.Image, receipt: Receipt, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the command line; a picture that says nothing is told from one that does."""
    file = save_picture(
        picture, tmp_path / "own.png", receipt, number=1, credentials=Credentials.of(signer(tmp_path / "k"))
    )
    told, _ = said(capsys, "show", file)
    for part in ("school", "spm cigarette", "open 1.00", "cigarette 0.99 -> blur", "credentials that hold", "A School"):
        assert part in told, part
    (row,) = reported(capsys, "show", file)["rows"]
    assert row["policy"] == "school" and row["credentials"] == "Valid" and row["same"] is True
    picture.save(file)
    assert "says nothing" in said(capsys, "show", file)[0]
    assert "no picture that can be read" in said(capsys, "show", tmp_path / "none.png", status=1)[1]


def test_nothing_is_imported_that_nobody_asked_for() -> None:
    code = "import sys, conceptguard.records.pictures; print({'c2pa', 'PIL', 'opentelemetry'} & set(sys.modules))"
    done: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
