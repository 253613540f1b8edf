"""The daemon's own key: Ed25519 (RFC 8032), in a file that only its user can read.

Owns the key's files and every use of `cryptography`, which is imported when something is first signed or verified: 20
ms and 9 MiB that a daemon without finished executions does not pay. ccexecctl verifies with it, too. Must not know what
is signed.
"""

import base64
import contextlib
import hashlib
import os
import stat
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ccexecd.storage.plain_file import open_plain

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNATURE = 88
"""Characters of a signature: 64 bytes in base64."""

_NAME = 16  # hexadecimal digits of a key's name
_LARGEST = 4096  # bytes of a key's file that are read: a key takes some hundred


class SigningError(OSError):
    """A key cannot be used; the text says which file, why, and what to do."""


class PublicKey:
    """An Ed25519 public key.

    Args:
        pem: the text of its file.

    Attributes:
        pem: the text of its file.

    Raises:
        SigningError: the text is no public key, or not one for Ed25519.
    """

    def __init__(self, pem: str) -> None:
        from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
        from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

        try:
            key = load_pem_public_key(pem.encode())
        except (ValueError, UnsupportedAlgorithm):
            raise SigningError("it holds no public key (PEM)") from None
        if not isinstance(key, Ed25519PublicKey):
            raise SigningError("its key is none for Ed25519")
        self.pem = pem
        self._key: Ed25519PublicKey = key

    @cached_property
    def name(self) -> str:
        """A short name for people: the beginning of the SHA-256 of the key's 32 bytes, in hexadecimal."""
        return hashlib.sha256(self._key.public_bytes_raw()).hexdigest()[:_NAME]

    def has_signed(self, text: bytes, signature: str) -> bool:
        """Whether a signature (base64) was made by this key for exactly this text."""
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415

        try:
            self._key.verify(base64.b64decode(signature, validate=True), text)
        except (InvalidSignature, ValueError):
            return False
        return True


class Signer:
    """Signs with the private key in a file.

    Args:
        path: the private key's file, which is made if it is not there. The public key is kept beside it (`.pub`).

    Attributes:
        public: the public key.

    Raises:
        SigningError: the file holds no Ed25519 key, or others may read it.
        OSError: the file can be neither read nor made.
    """

    def __init__(self, path: Path) -> None:
        from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415
        from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

        try:
            text = _read_private(path)
        except FileNotFoundError:
            text = _make(path)
        try:
            key = load_pem_private_key(text, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise SigningError(
                f"{path} holds no private key (PEM): put it back, or move it away for a new one"
            ) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise SigningError(f"the key in {path} is none for Ed25519: move it away for a new one")
        self._key: Ed25519PrivateKey = key
        self.public = PublicKey(_public_pem(key))
        _publish(path.with_suffix(".pub"), self.public.pem)

    def sign(self, text: bytes) -> str:
        """The signature of a text, in base64."""
        return base64.b64encode(self._key.sign(text)).decode()


def _public_pem(key: "Ed25519PrivateKey") -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _read_private(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise SigningError(f"{path} is no plain file: move it away")
        if found.st_mode & 0o077:
            raise SigningError(f"{path} may be read or written by others: chmod 600, or move it away for a new one")
        return os.read(fd, _LARGEST)
    finally:
        os.close(fd)


def _make(path: Path) -> bytes:
    """Make a new private key, and write it to its file. Returns its PEM."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat  # noqa: PLC0415

    key = Ed25519PrivateKey.generate()
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _put(path, text, 0o600)
    return text


def _publish(path: Path, pem: str) -> None:
    """Write the public key's file, for people, unless it is there already; failures are ignored."""
    with contextlib.suppress(OSError), open(open_plain(path), "rb") as file:  # noqa: PTH123  # a descriptor
        if file.read(_LARGEST) == pem.encode():
            return
    with contextlib.suppress(OSError):
        _put(path, pem.encode(), 0o644)


def _put(path: Path, text: bytes, mode: int) -> None:
    """Write a file whole or not at all."""
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.unlink(missing_ok=True)
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        os.write(fd, text)
        os.fsync(fd)
    finally:
        os.close(fd)
    unfinished.rename(path)
