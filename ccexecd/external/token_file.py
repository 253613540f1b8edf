"""Files that hold secrets: private from the moment they are made, written whole or not at all, and refused otherwise.

Owns the default token's file, and how any such file is read and written. It blocks for as long as the disk takes. Must
not know which tokens there are, or what they admit to: tokens.py does.
"""

import errno
import os
import re
import secrets
import stat
from pathlib import Path

_TOKEN_BYTES = 32  # 256 bits, beyond guessing at any rate
_SHORTEST_TOKEN = 32  # characters; an operator may have written a token of their own
_LONGEST_TOKEN_FILE = 4096  # bytes
_TOKEN_TEXT = re.compile(r"[\x21-\x7e]+")


class TokenError(OSError):
    """A token file cannot be trusted or written. The message says why and what to do."""


def new_token() -> str:
    """Make a token: 256 random bits, in base64url."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def load_or_create_token(path: Path) -> str:
    """Read the token that admits a client, making one where there is none.

    Args:
        path: The token file. Its directory exists.

    Returns:
        The token.

    Raises:
        TokenError: The file is readable by others, belongs to another user, is not a plain file, holds no usable
            token, or cannot be read or written.
    """
    try:
        return load_token(path)
    except FileNotFoundError:
        pass
    try:
        return _create_token(path)
    except FileExistsError:  # another daemon that shares the file was faster
        return load_token(path)


def load_token(path: Path) -> str:
    """Read an existing token file.

    Raises:
        FileNotFoundError: There is none.
        TokenError: As `load_or_create_token` does.
    """
    text = read_private(path, _LONGEST_TOKEN_FILE).decode("latin-1").strip()
    if len(text) < _SHORTEST_TOKEN or _TOKEN_TEXT.fullmatch(text) is None:
        raise TokenError(
            f"the token file {path} does not hold one word of at least {_SHORTEST_TOKEN} ASCII characters; "
            "delete it and a new token will be made"
        )
    return text


def read_private(path: Path, longest: int) -> bytes:
    """Read a file that no other user can have read or written.

    Args:
        path: The file.
        longest: Bytes to read at most.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: There is none.
        TokenError: Others can open it, it belongs to another user or is not a plain file, or it cannot be read.
    """
    try:
        # O_NONBLOCK: a FIFO in its place must not stop the start.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        hint = (
            "it is a symbolic link: put the file itself there"
            if error.errno == errno.ELOOP
            else f"{error.strerror}; let the user that runs ccexecd read it, or remove it to have another one made"
        )
        raise TokenError(f"cannot read the token file {path}: {hint}") from error
    try:
        _check(path, os.fstat(fd))
        with os.fdopen(os.dup(fd), "rb") as file:
            return file.read(longest)
    finally:
        os.close(fd)


def replace_private(path: Path, content: bytes) -> None:
    """Write or replace a file, whole or not at all; it is private from the moment it is made.

    Args:
        path: The file.
        content: All of it.

    Raises:
        TokenError: It cannot be written; what was there is as it was.
    """
    try:
        draft = _draft(path, content)
        try:
            draft.rename(path)
        except BaseException:
            draft.unlink()
            raise
        _sync_directory(path.parent)
    except OSError as error:
        raise TokenError(f"cannot write the token file {path}: {error.strerror}; check its directory") from error


def _check(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise TokenError(f"the token file {path} is not a plain file; delete it and a new token will be made")
    if status.st_uid not in {0, os.geteuid()}:
        raise TokenError(
            f"the token file {path} belongs to uid {status.st_uid}, who knows the token; "
            "delete it and a new token will be made"
        )
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise TokenError(
            f"the token file {path} is open to other users (mode {mode:04o}), who may know the token; "
            "delete it and a new token will be made, or chmod 600 it if nobody has read it"
        )


def _create_token(path: Path) -> str:
    """Make a token file that is complete from the moment it has its name; FileExistsError when there is one."""
    token = new_token()
    try:
        draft = _draft(path, token.encode() + b"\n")
        try:
            os.link(draft, path)  # unlike a rename, this never replaces the token of another daemon
        finally:
            draft.unlink()
    except FileExistsError:
        raise
    except OSError as error:
        raise TokenError(f"cannot write the token file {path}: {error.strerror}; check its directory") from error
    return token


def _draft(path: Path, content: bytes) -> Path:
    """Write and sync a file beside another one; it has mode 0600 from the moment it is made. Returns its path."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
    except BaseException:
        draft.unlink()
        raise
    return draft


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
