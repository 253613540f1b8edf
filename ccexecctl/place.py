"""Where the daemon is looked for, and whether somebody holds its lock.

Owns turning `--state-dir`, `--socket` and the environment into paths. Must not connect to anything.
"""

import os
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

from ccexecctl.errors import CtlError
from ccexecd import paths, pidfile


class Place(NamedTuple):
    """Where a daemon is looked for.

    Attributes:
        paths: the places of the daemon that this user would start.
        sockets: control sockets, the likeliest first.
        is_named: the user named the socket itself; a daemon elsewhere will not do.
    """

    paths: paths.Places
    sockets: list[Path]
    is_named: bool

    def own(self) -> "Place":
        """This place without the fall-back to the machine's daemon, which this user can neither start nor stop."""
        system = paths.candidate_sockets({}, uid=0)
        return self._replace(sockets=[each for each in self.sockets if each not in system] or self.sockets)

    @property
    def pidfiles(self) -> set[Path]:
        """Every pidfile whose lock says that a daemon of this place is there, be it still starting."""
        return {self.paths.pidfile, *map(pidfile_beside, self.sockets)}


def locate(arguments: Namespace) -> Place:
    """Decide where the daemon is to be looked for, from the options and the environment.

    Raises:
        CtlError: this user has no place for one.
    """
    directory = arguments.state_dir or os.environ.get("CCEXECD_STATE_DIR")
    named = arguments.socket or (not arguments.state_dir and os.environ.get("CCEXECD_SOCKET"))
    try:
        places = paths.default_places(state_dir=Path(directory) if directory else None)
    except paths.PlaceError as error:
        raise CtlError(str(error)) from error
    sockets = paths.candidate_sockets(
        state_dir=Path(arguments.state_dir) if arguments.state_dir else None,
        socket=Path(arguments.socket) if arguments.socket else None,
    )
    return Place(places, sockets, is_named=bool(named))


def pidfile_beside(control_socket: Path) -> Path:
    """The pidfile of the daemon behind a control socket: in every usual place the two lie side by side."""
    return control_socket.with_name(f"{paths.NAME}.pid")


def is_held(path: Path) -> bool:
    """Whether a daemon holds the lock of a pidfile; one that we may not even look at counts as free."""
    try:
        return pidfile.is_locked(path)
    except OSError:
        return False


def holder(path: Path) -> int | None:
    """The pid of the daemon that holds the lock of a pidfile; None when there is none, or it is only starting."""
    try:
        return pidfile.running_pid(path)
    except OSError:
        return None
