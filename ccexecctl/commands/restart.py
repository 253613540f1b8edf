"""`ccexecctl restart`: stop, then start as the running daemon was started."""

import os
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ccexecctl import render, shutdown
from ccexecctl.client import connect
from ccexecctl.commands.stop import report
from ccexecctl.errors import CtlError, Exit, NotRunningError, UnreachableError
from ccexecctl.launch import daemon_flags, launch, require_valid
from ccexecctl.place import Place, locate
from ccexecctl.shutdown import Stopped

DESCRIPTION = """\
Stop ccexecd and start it again with the flags and environment settings that the running one was started with, on the
same port; the configuration file is read anew. The new configuration is checked first: when any of it is wrong, nothing
is ended. One that is not running is started, with no flags: those of a daemon that was killed are not known. Under
systemd use: systemctl restart ccexecd"""

EXAMPLES = """\
examples:
  ccexecctl restart
  ccexecctl restart --drain 60
"""

configure = shutdown.configure


class Settings(NamedTuple):
    """What makes the next daemon like the last.

    Attributes:
        flags: of `ccexecd`.
        environ: variables that configured it and that are not set here.
    """

    flags: list[str]
    environ: dict[str, str]


def run(arguments: Namespace) -> int:
    """Do both, and say how it went."""
    place = locate(arguments).own()
    settings = _settings(place, arguments)
    flags, environ = [*daemon_flags(arguments, place), *settings.flags], {**settings.environ, **os.environ}
    _require_valid(flags, environ, arguments.timeout)
    stopped = shutdown.stop(place, arguments)
    try:
        status = launch(place, flags, arguments.timeout, environ).status
    except CtlError as error:
        if stopped is not None:
            _tell_of_the_end(error, stopped)
        raise
    if stopped is None:
        document = {"result": "started", "previous_pid": None, "ended": [], **status}
        lines = [f"ccexecd was not running; started (pid {status['pid']}), listening on {status['address']}"]
    else:
        document = {"result": "restarted", "previous_pid": stopped.pid, "ended": stopped.ended, **status}
        line = f"ccexecd restarted (pid {status['pid']}, was pid {stopped.pid}), listening on {status['address']}"
        lines = [line, *report(stopped.ended)]
    render.show(document, lines, as_json=arguments.json)
    return Exit.DONE


def _require_valid(flags: list[str], environ: dict[str, str], timeout: float | None) -> None:
    """Refuse before anything has ended what could not be started after.

    Raises:
        CtlError: the new configuration is not valid.
    """
    try:
        require_valid(flags, environ, timeout)
    except CtlError as error:
        error.message = f"not restarted, nothing was ended: {error.message}"
        error.hint = error.hint or "check the file with: ccexecctl config validate"
        raise


def _tell_of_the_end(error: CtlError, stopped: Stopped) -> None:
    """Add to a failed start what the stop before it has ended."""
    lines = [f"ccexecd {stopped.manner} (pid {stopped.pid})", *report(stopped.ended)]
    error.message = "\n  ".join([error.message, *lines])
    error.facts = {"previous_pid": stopped.pid, "ended": stopped.ended}


def _settings(place: Place, arguments: Namespace) -> Settings:
    """Ask the running daemon what it was started with."""
    try:
        with connect(place, arguments.timeout) as client:
            status = client.call("status")
            config = client.call("config")
    except NotRunningError:
        return Settings([], {})
    except UnreachableError as error:
        if not arguments.force:
            shutdown.propose_force(error, arguments)
            raise
        render.remark("it does not answer, so the flags that it was started with are not known")
        return Settings([], {})
    _refuse_unit(status["pid"])
    settings = _repeat(config["config"], config["sources"])
    if config["config"]["port"] == 0:  # it took a free port, which its clients know by now
        settings.flags.append(f"--port={status['address'].rpartition(':')[2]}")
    if status["config_file"] not in {None, str(place.paths.config_file)}:
        settings.flags.append(f"--config={status['config_file']}")
    return settings


def _refuse_unit(pid: int) -> None:
    """A daemon that systemd started must be started by systemd again, or it would run outside its unit.

    Raises:
        CtlError: it belongs to a unit of ccexecd.
    """
    unit = ""
    with suppress(OSError):  # hidden from us, or ended meanwhile
        unit = unit_in(Path(f"/proc/{pid}/cgroup").read_text())
    if unit:
        raise CtlError(f"ccexecd (pid {pid}) belongs to systemd's unit {unit}", f"systemctl restart {unit}")


def unit_in(cgroups: str) -> str:
    """The unit of ccexecd in the text of /proc/PID/cgroup; empty when it names none."""
    parts = cgroups.replace("\n", "/").split("/")
    return next((part for part in parts if part.startswith("ccexecd") and part.endswith(".service")), "")


def _repeat(config: dict[str, Any], sources: dict[str, str]) -> Settings:
    """Say again what was said by flags and by the environment; the file speaks for itself."""
    settings = Settings([], {})
    for key, source in sources.items():
        value, (kind, _, name) = config[key], source.partition(" ")
        if key == "log_level" and source == sources["debug"]:
            continue  # what `debug` made of it
        if kind == "flag":
            settings.flags.append(name if value is True else f"{name}={value}")
        elif kind == "environment":
            settings.environ[name] = ",".join(value) if isinstance(value, list) else str(value)
    return settings
