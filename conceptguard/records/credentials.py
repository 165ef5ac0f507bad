"""Content credentials (C2PA 2): a receipt's summary in a manifest that is signed, and bound to the picture.

https://spec.c2pa.org; written and read by the initiative's own library, c2pa-python.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConceptGuardError
from ..version import __version__

LABEL = "org.conceptguard.receipt"  # of our assertion
_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
# Of what strangers wrote nothing is fetched: not a manifest from an address in a picture, nor a certificate's status.
_SETTINGS = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},  # the picture itself is there; a source's is nobody's business
}
_MARK = b"jumb"  # stands in every file that has credentials inside

Read = tuple[dict[str, Any] | None, str | None, str | None, tuple[str, ...]]


@dataclass(frozen=True)
class Credentials:
    """Who signs. certificate: a PEM file with the signer's certificate and those above it, but for the root

    key: a PEM file with its private key, PKCS 8, without a password; timestamps: address of an authority that says
    when, by default none: then the signature holds as long as the certificate does
    """

    certificate: Path
    key: Path
    timestamps: str | None = None

    @classmethod
    def of(cls, folder: str | Path) -> Credentials:
        """``certificate.pem`` and ``key.pem`` of a folder. Raises ConceptGuardError where one is missing."""
        found = cls(Path(folder) / "certificate.pem", Path(folder) / "key.pem")
        for file in (found.certificate, found.key):
            if not file.is_file():
                raise ConceptGuardError(f"{file}: no such file: credentials are a certificate.pem and a key.pem")
        return found


def signed(png: bytes, told: Mapping[str, Any], title: str, credentials: Credentials, source: Path | None) -> bytes:
    """The picture with a manifest about it. Raises ConceptGuardError where it cannot be signed."""
    c2pa = _c2pa()
    agent = {"name": "conceptguard", "version": __version__}
    manifest = {
        "claim_generator_info": [agent],
        "title": title,
        "format": "image/png",
        "assertions": [{"label": LABEL, "data": dict(told)}],
    }
    out = io.BytesIO()
    try:
        builder = c2pa.Builder(json.dumps(manifest), context=c2pa.Context.from_dict(_SETTINGS))
        if source is None:
            builder.set_intent(c2pa.C2paBuilderIntent.CREATE, c2pa.C2paDigitalSourceType.TRAINED_ALGORITHMIC_MEDIA)
        else:
            builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
            with source.open("rb") as stream:
                parent = {"title": source.name, "relationship": "parentOf"}
                builder.add_ingredient(json.dumps(parent), _type(source), stream)
        with _signer(c2pa, credentials) as signer:
            builder.sign(signer, "image/png", io.BytesIO(png), out)
    except (c2pa.C2paError, OSError, ValueError) as error:
        raise ConceptGuardError(
            f"the picture cannot be given content credentials ({' '.join(str(error).split())[:200]}): look at "
            f"{credentials.certificate} and {credentials.key}" + (f", and at {source}" if source else "")
        ) from error
    return out.getvalue()


def read(path: Path) -> Read:
    """(our receipt or nothing, whether the credentials hold, who signed, titles of ingredients); nothing four times
    where there are none."""
    content = path.read_bytes()
    if _MARK not in content:
        return None, None, None, ()
    try:
        c2pa = _c2pa()
    except ConceptGuardError:
        return None, "unread", None, ()
    try:
        with c2pa.Reader(_type(path), io.BytesIO(content), context=c2pa.Context.from_dict(_SETTINGS)) as reader:
            state, active = str(reader.get_validation_state()), reader.get_active_manifest() or {}
    except c2pa.C2paError.ManifestNotFound:
        return None, None, None, ()
    except (c2pa.C2paError, ValueError):
        return None, "Invalid", None, ()
    ours = [one.get("data") for one in active.get("assertions", ()) if one.get("label") == LABEL]
    told = ours[0] if ours and isinstance(ours[0], dict) else None
    info = active.get("signature_info") or {}
    signer = info.get("common_name") or info.get("issuer")
    titles = tuple(str(one.get("title", "untitled")) for one in active.get("ingredients", ()))
    return told, state, signer, titles


def _c2pa() -> Any:
    try:
        import c2pa
    except ImportError:
        raise ConceptGuardError(
            'content credentials need c2pa-python: pip install "conceptguard[credentials]"'
        ) from None
    return c2pa


def _type(path: Path) -> str:
    try:
        return _TYPES[path.suffix.lower()]
    except KeyError:
        raise ConceptGuardError(f"{path}: content credentials are read and kept of PNG, JPEG and WebP") from None


def _signer(c2pa: Any, credentials: Credentials) -> Any:
    certificate, key = credentials.certificate.read_bytes(), credentials.key.read_bytes()
    info = c2pa.C2paSignerInfo(_algorithm(key), certificate, key, credentials.timestamps)
    return c2pa.Signer.from_info(info)


def _algorithm(key: bytes) -> str:
    """By the kind of key. Raises ValueError for one that C2PA does not know, or that has a password."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        found = load_pem_private_key(key, None)
    except TypeError:
        raise ValueError("the key has a password: give one without") from None
    if isinstance(found, ec.EllipticCurvePrivateKey) and found.key_size in (256, 384, 521):
        return {256: "es256", 384: "es384", 521: "es512"}[found.key_size]
    if isinstance(found, rsa.RSAPrivateKey):
        return "ps256"
    if isinstance(found, ed25519.Ed25519PrivateKey):
        return "ed25519"
    raise ValueError("the key is of a kind that C2PA does not know: use P-256, P-384, Ed25519 or RSA")
