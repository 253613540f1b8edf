"""Where a daemon's files are, and how ccexecctl finds them.

Owns the default places of root, of a user, under systemd and below one chosen directory, and creates such directories.
Reads no configuration and opens nothing but the directory of a socket whose path is too long. Standard library only:
ccexecctl imports this module on every start.
"""

import errno
import os
import pwd
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

NAME = "ccexecd"
"""The component that every default directory ends in."""

CONTROL_SOCKET = "control.sock"
"""File name of the operators' socket in its runtime directory."""

PIDFILE = f"{NAME}.pid"
"""File name of the pidfile in its runtime directory."""

CONTROL_SOCKET_LABEL = ", control socket "
"""What stands before the control socket's path at the end of the line by which `ccexecd` says that it has started."""

SOCKET_PATH_MAX = 107
"""Bytes of a Unix socket's path: `sun_path` of unix(7) has 108 with its final NUL."""

_ROOT_RUNTIME = Path("/run", NAME)


@dataclass(frozen=True, slots=True)
class Places:
    """Every path that one daemon reads, binds or writes; all absolute.

    Attributes:
        config_file: read when it is there.
        state_dir: what outlives the daemon.
        runtime_dir: what does not: the pidfile and the control socket.
        pidfile: held with flock(2) as long as the daemon lives.
        control_socket: the operators' Unix socket.
        log_file: written by a detached daemon only.
        token_file: the bearer token, mode 0600.
    """

    config_file: Path
    state_dir: Path
    runtime_dir: Path
    pidfile: Path
    control_socket: Path
    log_file: Path
    token_file: Path

    def as_public_dict(self) -> dict[str, str]:
        """Return those places that are keys of the configuration, as they are in effect."""
        keys = ("state_dir", "control_socket", "pidfile", "log_file", "token_file")
        return {key: str(getattr(self, key)) for key in keys}

    @property
    def signpost(self) -> Path | None:
        """Where ccexecctl looks for the control socket, when that is somewhere else and the lock there is ours."""
        usual = self.runtime_dir / CONTROL_SOCKET
        return usual if self.control_socket != usual and self.pidfile == self.runtime_dir / PIDFILE else None


class PlaceError(Exception):
    """A place cannot be used; the text says which one, why, and what to do."""


def default_places(
    environ: Mapping[str, str] = os.environ, uid: int | None = None, state_dir: Path | None = None
) -> Places:
    """Give the places of a daemon that was told nothing else.

    Args:
        environ: searched for the directories of systemd and of the XDG base directory specification.
        uid: whose daemon it is; None means the effective user of this process.
        state_dir: put everything inside this directory; it wins over the environment.

    Raises:
        PlaceError: the user has no home directory.
    """
    if state_dir is not None:
        here = state_dir.absolute()
        return _places(config=here, state=here, runtime=here, logs=here)
    uid = os.geteuid() if uid is None else uid
    if uid == 0:
        return _places(
            config=_by_systemd(environ, "CONFIGURATION_DIRECTORY") or Path("/etc", NAME),
            state=_by_systemd(environ, "STATE_DIRECTORY") or Path("/var/lib", NAME),
            runtime=_by_systemd(environ, "RUNTIME_DIRECTORY") or _ROOT_RUNTIME,
            logs=_by_systemd(environ, "LOGS_DIRECTORY") or Path("/var/log", NAME),
        )
    state = _by_systemd(environ, "STATE_DIRECTORY") or _user_state(environ, uid)
    return _places(
        config=_by_systemd(environ, "CONFIGURATION_DIRECTORY") or _by_xdg(environ, uid, "XDG_CONFIG_HOME", ".config"),
        state=state,
        runtime=_by_systemd(environ, "RUNTIME_DIRECTORY") or _user_runtime(environ) or state / "run",
        logs=_by_systemd(environ, "LOGS_DIRECTORY") or state,
    )


def candidate_sockets(
    environ: Mapping[str, str] = os.environ,
    uid: int | None = None,
    state_dir: Path | None = None,
    socket: Path | None = None,
) -> list[Path]:
    """List the control sockets that ccexecctl tries, in order.

    A daemon that was named, by a flag or by the environment, is the only candidate: an operator who names one must
    never reach another.

    Args:
        environ: `CCEXECD_SOCKET` names a socket; else the daemon's `CCEXECD_CONTROL_SOCKET` or `CCEXECD_STATE_DIR`.
        uid: who looks; None means the effective user of this process.
        state_dir: the value of `--state-dir`.
        socket: the value of `--socket`.
    """
    named_dir = state_dir or _path(environ, f"{NAME.upper()}_STATE_DIR")
    if socket is None and state_dir is None:
        socket = _path(environ, f"{NAME.upper()}_SOCKET") or _path(environ, f"{NAME.upper()}_CONTROL_SOCKET")
    if socket is not None:
        return [absolute(socket)]
    if named_dir is not None:
        return [absolute(named_dir) / CONTROL_SOCKET]
    uid = os.geteuid() if uid is None else uid
    directories = [_ROOT_RUNTIME] if uid == 0 else [*_user_runtimes(environ, uid), _ROOT_RUNTIME]
    return [directory / CONTROL_SOCKET for directory in dict.fromkeys(directories)]


def absolute(path: str | Path, directory: Path | None = None) -> Path:
    """A path of a setting, from a directory (None: the working directory) on; a leading `~` is the home directory."""
    return Path(directory or "").absolute() / os.path.expanduser(path)  # noqa: PTH111  # Path's own raises for an unknown user


def make_private_directory(directory: Path, what: str) -> None:
    """Create a directory and its missing parents with mode 0700; one that exists keeps its mode.

    Args:
        directory: where.
        what: what it is for, in the error's words: "state directory".

    Raises:
        PlaceError: it cannot be created, is no directory, or cannot be written.
    """
    try:
        for missing in reversed([path for path in (directory, *directory.parents) if not path.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)  # exist_ok: another start may be as fast
        if not directory.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise PlaceError(
            f"cannot use the {what} {directory}: {error.strerror}; choose another with --state-dir DIR"
        ) from error


def socket_address(path: Path, stack: ExitStack) -> str:
    """Give the address to bind or connect a Unix socket with, whatever the length of its path.

    A path over the kernel's limit is reached through a descriptor of its directory.

    Args:
        path: where the socket is or shall be.
        stack: closes that descriptor; keep it open until bind or connect has returned.

    Raises:
        OSError: the directory cannot be opened, or the file name alone is too long.
    """
    if len(os.fsencode(path)) <= SOCKET_PATH_MAX:
        return str(path)
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, directory)
    address = f"/proc/self/fd/{directory}/{path.name}"
    if len(os.fsencode(address)) > SOCKET_PATH_MAX:
        raise OSError(errno.ENAMETOOLONG, "the file name is too long for a socket", str(path))
    return address


def _places(*, config: Path, state: Path, runtime: Path, logs: Path) -> Places:
    return Places(
        config_file=config / f"{NAME}.toml",
        state_dir=state,
        runtime_dir=runtime,
        pidfile=runtime / PIDFILE,
        control_socket=runtime / CONTROL_SOCKET,
        log_file=logs / f"{NAME}.log",
        token_file=state / "token",
    )


def _path(environ: Mapping[str, str], variable: str) -> Path | None:
    return Path(environ[variable]) if environ.get(variable) else None


def _by_systemd(environ: Mapping[str, str], variable: str) -> Path | None:
    """Read one of the directories that systemd makes for a unit; see RuntimeDirectory= in systemd.exec(5).

    Children of any other service inherit these variables too: only a directory that is named after ccexecd is meant for
    it.
    """
    for directory in map(Path, environ.get(variable, "").split(":")):
        if directory.is_absolute() and any(part.startswith(NAME) for part in directory.parts):
            return directory
    return None


def _by_xdg(environ: Mapping[str, str], uid: int, variable: str, below_home: str) -> Path:
    base = _path(environ, variable)
    # "All paths set in these environment variables must be absolute", else they are to be ignored.
    return (base if base and base.is_absolute() else _home(environ, uid) / below_home) / NAME


def _user_state(environ: Mapping[str, str], uid: int) -> Path:
    return _by_xdg(environ, uid, "XDG_STATE_HOME", ".local/state")


def _user_runtime(environ: Mapping[str, str]) -> Path | None:
    base = _path(environ, "XDG_RUNTIME_DIR")
    return base / NAME if base and base.is_absolute() else None


def _user_runtimes(environ: Mapping[str, str], uid: int) -> list[Path]:
    """List where this user's daemon may have put its socket: cron and ssh set other variables than a login does."""
    runtimes = [_user_runtime(environ) or Path("/run/user", str(uid), NAME)]
    with suppress(PlaceError):  # without a home directory, the daemon could not use one either
        runtimes.append(_user_state(environ, uid) / "run")
    return runtimes


def _home(environ: Mapping[str, str], uid: int) -> Path:
    home = _path(environ, "HOME")
    if home and home.is_absolute():
        return home
    try:
        return Path(pwd.getpwuid(uid).pw_dir)
    except KeyError:
        raise PlaceError(
            f"no home directory: user {uid} is not in the password database; set HOME or choose --state-dir DIR"
        ) from None
