"""Keys that sign: Ed25519 in PEM files of their owner, or an identity that sigstore vouches for.

A private key never lies in a registry's folder, which is served, nor in a repository. It may be encrypted by a
passphrase, which is read from CONCEPTGUARD_PASSPHRASE.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from conceptguard.errors import RegistryError
from conceptguard.files.atomic import explained, read_limited
from conceptguard.registry.signed.layout import OWNER

PASSPHRASE = "CONCEPTGUARD_PASSPHRASE"
KEYS = "CONCEPTGUARD_KEYS"
_MAX_KEY = 16 * 1024
SIGSTORE = "sigstore-oidc"


def keys_folder() -> Path:
    """Where a publisher's keys are by default; the environment variable CONCEPTGUARD_KEYS moves it."""
    import platformdirs

    named = os.environ.get(KEYS)
    return Path(named).expanduser() if named else Path(platformdirs.user_config_dir("conceptguard")) / "keys"


def check_outside(keys: Path, folder: Path) -> None:
    """Raises RegistryError for a folder of keys that would be served with the registry."""
    if keys.resolve().is_relative_to(folder.resolve()):
        raise RegistryError(f"{keys}: inside of the registry, which others read: keep keys somewhere else")


def new_key(path: Path, owner: str) -> Any:
    """Make a key pair, write the private half to ``path`` for its owner's eyes alone, and return the public one.

    Raises RegistryError where there is a file already: a key is never written over.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    phrase = os.environ.get(PASSPHRASE, "").encode()
    locked = serialization.BestAvailableEncryption(phrase) if phrase else serialization.NoEncryption()
    data = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise RegistryError(f"{path}: there is a key already: give another folder with --keys") from None
        with os.fdopen(handle, "wb") as file:
            file.write(data)
    return owned(private.public_key(), owner)


def owned(public: Any, owner: str) -> Any:
    """TUF's key for a public key, with its owner's name in it."""
    from securesystemslib.signer import SSlibKey

    key = SSlibKey.from_crypto(public)
    key.unrecognized_fields[OWNER] = _name(owner)
    return key


def read_public(path: Path, owner: str) -> Any:
    """TUF's key from a PEM file, public or private. Raises RegistryError."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data = read_limited(path, _MAX_KEY)
    try:
        return owned(load_pem_public_key(data) if b"PUBLIC KEY" in data else _private(data, path).public_key(), owner)
    except ValueError as cause:
        raise RegistryError(
            f"{path}: no public key in PEM ({cause}): give the file that `openssl pkey` writes"
        ) from None


def sigstore_key(identity: str, issuer: str) -> Any:
    """TUF's key for an identity that sigstore vouches for. Raises RegistryError without the extra `sigstore`."""
    from importlib.util import find_spec

    from securesystemslib.signer import SigstoreSigner

    if find_spec("sigstore") is None:
        raise RegistryError("signing by sigstore takes its package: pip install 'conceptguard[sigstore]'")
    _, key = SigstoreSigner.import_(identity, issuer)
    key.unrecognized_fields[OWNER] = _name(identity)
    return key


def _name(owner: str) -> str:
    if not owner.isprintable() or not 0 < len(owner) <= 80:
        raise RegistryError(f"{owner[:80]!r}: no name for a key's owner: up to 80 printable characters")
    return owner


def load_signers(folders: Iterable[Path]) -> dict[str, Any]:
    """A signer for every private key in the folders, by the key's id. Raises RegistryError."""
    from securesystemslib.signer import CryptoSigner, SSlibKey

    found = {}
    for folder in folders:
        if not folder.is_dir():
            raise RegistryError(f"{folder}: no folder of keys: name it with --keys, or set {KEYS}")
        for path in sorted(folder.glob("*.pem")):
            data = read_limited(path, _MAX_KEY)
            if b"PRIVATE KEY" not in data:
                continue
            private = _private(data, path)
            key = SSlibKey.from_crypto(private.public_key())
            found[key.keyid] = CryptoSigner(private, key)
    return found


def _private(data: bytes, path: Path) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    phrase = os.environ.get(PASSPHRASE, "").encode() or None
    try:
        return load_pem_private_key(data, phrase if b"ENCRYPTED" in data else None)
    except TypeError:
        raise RegistryError(f"{path}: encrypted: set {PASSPHRASE}") from None
    except (ValueError, UnsupportedAlgorithm) as cause:
        raise RegistryError(f"{path}: a key that cannot be read, or a wrong {PASSPHRASE} ({cause})") from None


def signer_of(key: Any, signers: Mapping[str, Any]) -> Any:
    """Who signs for a key: a file's, sigstore where the key is an identity, or None. Raises RegistryError."""
    if key.keyid in signers or key.keytype != SIGSTORE:
        return signers.get(key.keyid)
    from securesystemslib.exceptions import UnsupportedLibraryError
    from securesystemslib.signer import SigstoreSigner

    identity = key.keyval["identity"]
    ambient = os.environ.get("ACTIONS_ID_TOKEN_REQUEST_URL")  # in a workflow, which has no browser
    try:
        return SigstoreSigner.from_priv_key_uri(f"sigstore:?ambient={'true' if ambient else 'false'}", key)
    except UnsupportedLibraryError:
        raise RegistryError("signing by sigstore takes its package: pip install 'conceptguard[sigstore]'") from None
    except Exception as cause:  # its network, its browser, and its log-in each have errors of their own
        raise RegistryError(f"sigstore did not sign for {identity}: {' '.join(str(cause).split())[:200]}") from None
