"""Where the daemon is looked for, and whether a daemon holds the lock of its pidfile.

Owns turning `--state-dir`, `--socket`, the environment and the places in the configuration file into paths. Must not
connect to anything, and must not report what is wrong with that file: ccexecd does.
"""

import os
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ccexecctl.errors import CtlError
from ccexecd import paths, pidfile


class Place(NamedTuple):
    """Where a daemon is looked for.

    Attributes:
        paths: the places of the daemon that this user would start.
        sockets: paths of control sockets to try, the likeliest first.
        is_named: whether the user named the control socket itself, so that a daemon behind another one is not meant.
    """

    paths: paths.Places
    sockets: list[Path]
    is_named: bool

    def own(self) -> "Place":
        """Return this place without the machine's control socket as a fall-back: a user does not start that daemon."""
        return self._replace(sockets=[each for each in self.sockets if not self.is_fallback(each)])

    def is_fallback(self, control_socket: Path) -> bool:
        """Whether a control socket is the machine's, which is tried after this user's own."""
        is_system = control_socket in paths.candidate_sockets({}, uid=0)
        return is_system and len(self.sockets) > 1 and control_socket != self.paths.control_socket

    @property
    def pidfiles(self) -> set[Path]:
        """The pidfiles whose lock a daemon of this place holds, even while it is starting."""
        return {self.paths.pidfile, *map(pidfile_beside, self.sockets)}


def locate(arguments: Namespace) -> Place:
    """Decide where the daemon is looked for, by the options, the environment and the configuration file.

    Args:
        arguments: with `state_dir` and `socket`, each None if it was not given; `config` is optional.

    Raises:
        CtlError: this user has no home directory, and so no place for a daemon.
    """
    directory = arguments.state_dir or os.environ.get("CCEXECD_STATE_DIR")
    named = arguments.socket or (not arguments.state_dir and os.environ.get("CCEXECD_SOCKET"))
    try:
        places = paths.default_places(state_dir=paths.absolute(directory) if directory else None)
        said = _said_by(paths.absolute(_config_file(arguments) or places.config_file))
        if "state_dir" in said and not directory:
            places = replace(paths.default_places(state_dir=said["state_dir"]), config_file=places.config_file)
    except paths.PlaceError as error:
        raise CtlError(str(error)) from error
    sockets = paths.candidate_sockets(
        state_dir=Path(arguments.state_dir) if arguments.state_dir else None,
        socket=Path(arguments.socket) if arguments.socket else None,
    )
    if not (directory or named or os.environ.get("CCEXECD_CONTROL_SOCKET")):
        usual = [places.control_socket] if "state_dir" in said else sockets
        # Behind the first: there the daemon leaves a link to its socket, so that the lock beside it counts.
        sockets = [*usual[:1], *([said["control_socket"]] if "control_socket" in said else []), *usual[1:]]
    return Place(places, sockets, is_named=bool(named))


def _config_file(arguments: Namespace) -> str | Path | None:
    """Return the configuration file that `start --config` or the environment names; None if neither does."""
    return getattr(arguments, "config", None) or os.environ.get("CCEXECD_CONFIG")


LONGEST_CONFIG = 1024 * 1024
"""Characters of a configuration file that are read: the daemon accepts no longer ones."""


def _said_by(config_file: Path) -> dict[str, Path]:
    """Return `state_dir` and `control_socket` as far as a configuration file sets them; nothing if it is not valid."""
    keys = ("state_dir", "control_socket")
    try:
        with config_file.open(encoding="utf-8") as file:
            text = file.read(LONGEST_CONFIG)
        if not any(key in text for key in keys):  # nearly always, so that most calls do not import tomllib
            return {}
        import tomllib  # noqa: PLC0415  # takes 10 ms

        settings = tomllib.loads(text)
    except (OSError, ValueError, RecursionError):
        return {}
    named = {key: settings[key] for key in keys if isinstance(settings.get(key), str) and settings[key]}
    return {key: paths.absolute(path, config_file.parent) for key, path in named.items()}


def pidfile_beside(control_socket: Path) -> Path:
    """Return the pidfile beside a control socket: in every usual place, the two are in the same directory."""
    return control_socket.with_name(paths.PIDFILE)


def is_held(path: Path) -> bool:
    """Whether a daemon holds the lock of a pidfile; False also if this user may not open the file."""
    try:
        return pidfile.is_locked(path)
    except OSError:
        return False


def holder(path: Path) -> int | None:
    """Return the pid of the daemon that holds the lock of a pidfile; None if none does, or it is just starting."""
    try:
        return pidfile.running_pid(path)
    except OSError:
        return None
