"""`ccexecctl restart`: stop the daemon, and start it again with the settings that it was started with."""

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
    """The settings of the running daemon, for its successor.

    Attributes:
        flags: command line flags of `ccexecd`.
        environ: environment variables that configured the running daemon, with their values.
    """

    flags: list[str]
    environ: dict[str, str]


def run(arguments: Namespace) -> int:
    """Stop the daemon, start it again, and print how that went. One that does not run is only started."""
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
    """Make sure that the new daemon's configuration is valid, before the running one is stopped.

    Raises:
        CtlError: it is not valid.
    """
    try:
        require_valid(flags, environ, timeout)
    except CtlError as error:
        error.message = f"not restarted, nothing was ended: {error.message}"
        error.hint = error.hint or "check the file with: ccexecctl config validate"
        raise


def _tell_of_the_end(error: CtlError, stopped: Stopped) -> None:
    """Add to the error of a failed start which executions the stop before it has ended."""
    lines = [f"ccexecd {stopped.manner} (pid {stopped.pid})", *report(stopped.ended)]
    error.message = "\n  ".join([error.message, *lines])
    error.facts = {"previous_pid": stopped.pid, "ended": stopped.ended}


def _settings(place: Place, arguments: Namespace) -> Settings:
    """Ask the running daemon for its settings.

    Returns:
        Its settings; none if it does not run, or if it does not answer and `--force` is set.

    Raises:
        UnreachableError: it does not answer, and `--force` is not set.
        CtlError: systemd has started it.
    """
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
    if config["config"]["port"] == 0:  # it took any free port; its clients know that one
        settings.flags.append(f"--port={status['address'].rpartition(':')[2]}")
    if status["config_file"] not in {None, str(place.paths.config_file)}:
        settings.flags.append(f"--config={status['config_file']}")
    return settings


def _refuse_unit(pid: int) -> None:
    """Refuse a daemon that systemd has started: started again by ccexecctl, it would run outside of its unit.

    Raises:
        CtlError: the process with this pid is in a unit of ccexecd.
    """
    unit = ""
    with suppress(OSError):  # the process is hidden from this user, or has ended
        unit = unit_in(Path(f"/proc/{pid}/cgroup").read_text())
    if unit:
        raise CtlError(f"ccexecd (pid {pid}) belongs to systemd's unit {unit}", f"systemctl restart {unit}")


def unit_in(cgroups: str) -> str:
    """Return the name of ccexecd's unit in the text of /proc/PID/cgroup; empty if there is none."""
    parts = cgroups.replace("\n", "/").split("/")
    return next((part for part in parts if part.startswith("ccexecd") and part.endswith(".service")), "")


def _repeat(config: dict[str, Any], sources: dict[str, str]) -> Settings:
    """Return the settings that came from flags and environment; the configuration file is read again anyway.

    Args:
        config: value of each key.
        sources: source of each key's value, such as `flag --port` or `environment CCEXECD_PORT`.
    """
    settings = Settings([], {})
    for key, source in sources.items():
        value, (kind, _, name) = config[key], source.partition(" ")
        if key == "log_level" and source == sources["debug"]:
            continue  # `debug` has set it, and will again
        if kind == "flag":
            settings.flags.append(name if value is True else f"{name}={value}")
        elif kind == "environment":
            settings.environ[name] = ",".join(value) if isinstance(value, list) else str(value)
    return settings
