"""The program `ccexecd`: from the command line to a running daemon, or to one line that says why not.

Owns the command line and the order of a start: configuration, directories, lock, forks, and only then the daemon with
Trio. Every error that happens before the forks is printed here. Must not import Trio before the forks.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ccexecd import __version__, logs
from ccexecd.config import ConfigError, LoadedConfig, load
from ccexecd.detach import UMASK, Ready, StartError, reason_of, run_detached, run_in_foreground
from ccexecd.keys import FIELDS, rules
from ccexecd.paths import CONTROL_SOCKET_LABEL, PlaceError, Places, make_private_directory
from ccexecd.pidfile import AlreadyRunningError, PidFile
from ccexecd.systemd import listen_fds

_DESCRIPTION = (
    "Run long-lived commands for WebSocket clients, and never lose their output, their exit or their children."
)

_EXAMPLES = """\
examples:
  ccexecd                                     detach, log to a file
  ccexecd --foreground                        stay, log to stderr: systemd, containers, debugging
  ccexecd --port 9000 --state-dir /tmp/one    a second one, with everything in one directory

Every key of the configuration file can be set in the environment as well, as CCEXECD_ and its name in capitals; flags
are stronger than the environment, and that is stronger than the file. ccexecctl controls the daemon.
"""

_NOT_KEYS = ("foreground", "config", "check")

_FAILED, _USAGE = 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Start a daemon.

    Args:
        argv: the command line without the program's name; None takes that of this process.

    Returns:
        0 when it is running detached, has ended as it was told to, or the check found nothing; 1 when it could not
        start, or failed; 2 when a flag has a value that its key cannot have.

    Raises:
        SystemExit: with 2 after a wrong command line, with 0 after --help and --version.
    """
    _open_standard_streams()
    arguments = _parser().parse_args(argv)
    try:
        return _start(arguments)
    except ConfigError as error:
        _refuse(*map(str, error.problems))
        return _USAGE if any(problem.source.startswith("flag ") for problem in error.problems) else _FAILED
    except (PlaceError, AlreadyRunningError, StartError, OSError) as error:
        return _refuse(reason_of(error))


def _start(arguments: argparse.Namespace) -> int:
    flags = {key: value for key, value in vars(arguments).items() if key not in _NOT_KEYS}
    loaded = load(flags, os.environ, arguments.config)
    places = loaded.places()
    handed_over = listen_fds() if not arguments.check else {}
    if not handed_over:
        loaded.require_secrecy()
    if arguments.check:
        print("ccexecd: the configuration is valid", flush=True)  # noqa: T201
        return 0
    umask = os.umask(UMASK)
    _make_directories(places, with_log=not arguments.foreground)
    keep = [fd for fds in handed_over.values() for fd in fds]

    def serve(ready: Ready) -> int:
        log_output = logs.configure(loaded.config.log_level, path=None if arguments.foreground else places.log_file)
        from ccexecd import daemon  # noqa: PLC0415  # with Trio, which must not be there before the forks

        return daemon.run(loaded, places, listen_fds=handed_over, ready=ready, umask=umask, log_output=log_output)

    pidfile = PidFile(places.pidfile).acquire()
    try:
        if arguments.foreground:
            return run_in_foreground(serve, pidfile=pidfile, keep=keep)
        return run_detached(
            serve, pidfile=pidfile, log_file=places.log_file, keep=keep, announce=_announcement(loaded, places)
        )
    finally:
        pidfile.release()  # where it was not passed on to a daemon


def _make_directories(places: Places, *, with_log: bool) -> None:
    make_private_directory(places.state_dir, "state directory")
    make_private_directory(places.runtime_dir, "runtime directory")
    make_private_directory(places.pidfile.parent, "directory of the pidfile")
    make_private_directory(places.control_socket.parent, "directory of the control socket")
    make_private_directory(places.token_file.parent, "directory of the token")
    if with_log:
        make_private_directory(places.log_file.parent, "log directory")


def _announcement(loaded: LoadedConfig, places: Places) -> Callable[[int, str | None], None]:
    def announce(pid: int, address: str | None) -> None:
        address = address or f"{loaded.config.host}:{loaded.config.port}"
        with suppress(OSError):  # the daemon is running, whether or not anybody reads it
            told = f"ccexecd: started (pid {pid}), listening on {address}{CONTROL_SOCKET_LABEL}{places.control_socket}"
            print(told, flush=True)  # noqa: T201

    return announce


def _refuse(*reasons: str) -> int:
    for reason in reasons:
        print(f"ccexecd: {reason}", file=sys.stderr)  # noqa: T201
    return _FAILED


def _open_standard_streams() -> None:
    """Make sure that descriptors 0 to 2 are open: else the pidfile would get one of them, and lose it to /dev/null."""
    for fd, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, mode, closefd=False))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ccexecd",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--foreground", action="store_true", help="do not detach; log to stderr")
    parser.add_argument("--check", action="store_true", help="check the configuration, and start nothing")
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration file (TOML); it must exist")
    parser.add_argument("--version", action="version", version=f"ccexecd {__version__}")
    keys = parser.add_argument_group("keys of the configuration")
    keys.add_argument("--port", type=int, metavar="N", help=_meaning("port"))
    keys.add_argument("--host", metavar="ADDRESS", help=_meaning("host"))
    keys.add_argument("--state-dir", metavar="DIR", help=_meaning("state_dir"))
    keys.add_argument("--control-socket", metavar="PATH", help=_meaning("control_socket"))
    keys.add_argument("--pidfile", metavar="PATH", help=_meaning("pidfile"))
    keys.add_argument("--log-file", metavar="PATH", help=_meaning("log_file"))
    keys.add_argument("--log-level", choices=rules("log_level").choices, help=_meaning("log_level"))
    keys.add_argument("--debug", action="store_true", default=None, help=_meaning("debug"))
    keys.add_argument("--max-sessions", type=int, metavar="N", help=_meaning("max_sessions"))
    return parser


def _meaning(key: str) -> str:
    default = FIELDS[key].default
    return rules(key).meaning + (f" (default: {default})" if default else "")


if __name__ == "__main__":
    sys.exit(main())
