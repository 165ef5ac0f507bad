#!/usr/bin/env bash
# tuf 7.0.1 with securesystemslib 1.6.0: a root that names a sigstore identity can be written and signed, and not read.
#
# `SigstoreKey` stands beside the other keys in securesystemslib.signer, `Root.add_key` takes it, `to_bytes` writes it.
# Whoever reads those bytes gets a DeserializationError, whether or not the package sigstore is installed: the key's type
# is not among those that `Key.from_dict` knows until the application puts it there. The docstring says so of signers
# (opt-in by SIGNER_FOR_URI_SCHEME), not of keys.
#
# Seen, Metadata[Root].from_bytes of a root with one SigstoreKey for targets:
#   as installed:                                                          DeserializationError
#   after KEY_FOR_TYPE_AND_SCHEME["sigstore-oidc", "Fulcio"] = SigstoreKey:  the root, its key a SigstoreKey
# Every reader must do this before the first root with an identity is published, or it is shut out by it.
#
# Ends with 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q tuf==7.0.1 securesystemslib==1.6.0 cryptography==50.0.2
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from securesystemslib.signer import KEY_FOR_TYPE_AND_SCHEME, CryptoSigner, SigstoreKey, SigstoreSigner
from tuf.api.metadata import Metadata, Root
from tuf.api.serialization import DeserializationError

_, identity = SigstoreSigner.import_("someone@example.org", "https://github.com/login/oauth")
signer = CryptoSigner.generate_ed25519()
root = Root()
root.add_key(signer.public_key, "root")
root.add_key(identity, "targets")
metadata = Metadata(root)
metadata.sign(signer)
data = metadata.to_bytes()
try:
    Metadata[Root].from_bytes(data)
    raise SystemExit("it is read now")
except DeserializationError as error:
    print("as installed:", type(error).__name__)
KEY_FOR_TYPE_AND_SCHEME["sigstore-oidc", "Fulcio"] = SigstoreKey
read = Metadata[Root].from_bytes(data).signed
assert isinstance(read.get_key(identity.keyid), SigstoreKey)
print("registered:", type(read.get_key(identity.keyid)).__name__)
PYTHON
