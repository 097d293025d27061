"""The operator's signing keys: files by default, or anything that securesystemslib can ask.

One directory beside the repository, never within it: what is inside is served to everybody.
`offline/` has the keys of root and targets, which can be carried away on a stick; `online/` those
of snapshot and timestamp, for the machine with the refresh timer; `keys.json` says which key signs
where. Files of keys are PEM, PKCS#8, mode 0600.
"""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from edged.errors import OperatorError, StoreError
from edged.models.files import Files, storing

ROLES = ("root", "targets", "snapshot", "timestamp")
_PLACE = {"root": "offline", "targets": "offline", "snapshot": "online", "timestamp": "online"}
_RECORD = "keys.json"
_FILE = "file:"
_WHAT = "cannot keep the keys"
_ADVICE = "Is the stick with the offline keys there? Give --keys DIR."


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A key that is kept by something else.

    Attributes:
        uri: as securesystemslib takes it, e.g. `hsm:2?label=targets`, `awskms:...`, `gcpkms:...`.
        public_pem: file with the public key.
    """

    uri: str
    public_pem: Path


class Keys:
    """The directory.

    Args:
        directory: see above.
        files: the file system.

    Raises:
        OperatorError: `keys_unreadable`.
    """

    def __init__(self, directory: Path, files: Files) -> None:
        self.directory = directory
        self._files = files
        self._uris: dict[str, str] = {}
        self.days: dict[str, int] = {}
        self.load()

    def load(self) -> None:
        """Read which key is where, as somebody else may have saved it since.

        Raises:
            OperatorError: `keys_unreadable`.
        """
        path = self.directory / _RECORD
        if path.exists():
            try:
                record = orjson.loads(path.read_bytes())
                self._uris = {str(key): str(uri) for key, uri in record["keys"].items()}
                self.days = {str(role): int(days) for role, days in record["days"].items()}
            except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
                raise OperatorError(
                    "keys_unreadable", f"cannot read {path}: {error}.", advice="Give --keys DIR."
                ) from error

    @property
    def known(self) -> bool:
        """Whether there are any."""
        return bool(self._uris)

    def make(self, role: str) -> Key:
        """Make a key for a role and keep it in a file.

        Raises:
            StoreError: it cannot be written.
        """
        signer = CryptoSigner.generate_ed25519()
        key = signer.public_key
        name = f"{_PLACE[role]}/{role}-{key.keyid[:8]}.pem"
        path = self.directory / name
        with storing(_WHAT):
            for folder in (self.directory, path.parent):
                self._files.make_dirs(folder)
                folder.chmod(0o700)
            self._files.write(path, signer.private_bytes, 0o600)
            self._files.fsync(path)
            self._files.fsync_dir(path.parent)
        self._uris[key.keyid] = _FILE + name
        return key

    def take(self, elsewhere: Elsewhere) -> Key:
        """Take a key that something else keeps.

        Raises:
            OperatorError: `key_invalid`.
        """
        try:
            public = load_pem_public_key(elsewhere.public_pem.read_bytes())
            key = SSlibKey.from_crypto(public)
        except (OSError, ValueError, UnsupportedAlgorithm, UnsupportedLibraryError) as error:
            raise OperatorError(
                "key_invalid", f"{elsewhere.public_pem} is no public key in PEM: {error}."
            ) from error
        self._uris[key.keyid] = elsewhere.uri
        self.signer(key)
        return key

    def signer(self, key: Key) -> Signer:
        """Return who signs with a key.

        Raises:
            OperatorError: `key_unavailable`.
        """
        uri = self._uris.get(key.keyid, "")
        if not uri:
            raise OperatorError(
                "key_unavailable",
                f"key {key.keyid[:8]} is not in {self.directory / _RECORD}.",
                advice=_ADVICE,
            )
        try:
            if uri.startswith(_FILE) and isinstance(key, SSlibKey):
                secret = (self.directory / uri.removeprefix(_FILE)).read_bytes()
                return CryptoSigner(load_pem_private_key(secret, None), key)
            return Signer.from_priv_key_uri(uri, key, getpass.getpass)
        except Exception as error:  # each kind of signer has its own errors
            raise OperatorError(
                "key_unavailable",
                f"cannot sign with key {key.keyid[:8]} ({uri}): {error}.",
                advice=_ADVICE,
            ) from error

    def forget(self, keyid: str) -> str:
        """Take a key out; its file stays. Returns where it is kept."""
        return self._uris.pop(keyid, "")

    @contextmanager
    def undone_on_refusal(self) -> Iterator[None]:
        """Take back the keys that are made meanwhile if that for which they are made is refused.

        Not where the disk fails: a root that names them may be there already.
        """
        before = dict(self._uris)
        try:
            yield
        except OperatorError:
            new = self._uris.keys() - before.keys()
            places = [self._uris[keyid] for keyid in new]
            self._uris = before
            with suppress(OSError, StoreError):
                if before:
                    self.save()
                else:
                    self._files.remove_atomic(self.directory / _RECORD)
                for place in places:
                    if place.startswith(_FILE):
                        self._files.remove(self.directory / place.removeprefix(_FILE))
            raise

    def save(self) -> None:
        """Remember which key is where.

        Raises:
            StoreError: it cannot be written.
        """
        record = {"schema": 1, "keys": self._uris, "days": self.days}
        with storing(_WHAT):
            self._files.make_dirs(self.directory)
            data = orjson.dumps(record, option=orjson.OPT_INDENT_2)
            self._files.write_atomic(self.directory / _RECORD, data)
