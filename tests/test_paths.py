"""Where the daemon puts its files and where ccexecctl looks for them."""

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from ccexecd.paths import (
    SOCKET_PATH_MAX,
    PlaceError,
    candidate_sockets,
    default_places,
    make_private_directory,
    socket_address,
)

USER = 4711
NOBODY_KNOWN = 987_654_321


def test_state_dir_holds_everything(tmp_path: Path):
    """With a state directory, no path lies outside of it, whatever the environment says."""
    environ = {"XDG_RUNTIME_DIR": "/run/user/4711", "RUNTIME_DIRECTORY": "/run/ccexecd"}
    places = default_places(environ, USER, tmp_path)
    assert places.config_file == tmp_path / "ccexecd.toml"
    assert places.state_dir == places.runtime_dir == tmp_path
    assert places.pidfile == tmp_path / "ccexecd.pid"
    assert places.control_socket == tmp_path / "control.sock"
    assert places.log_file == tmp_path / "ccexecd.log"
    assert places.token_file == tmp_path / "token"


def test_relative_state_dir_becomes_absolute(tmp_path: Path, monkeypatch):
    """A relative state directory is taken from the directory of the start: the daemon lives in /."""
    monkeypatch.chdir(tmp_path)
    assert default_places({}, USER, Path("here")).pidfile == tmp_path / "here" / "ccexecd.pid"


def test_places_of_root():
    """Root's daemon uses the system's directories and ignores a user's variables."""
    places = default_places({"XDG_RUNTIME_DIR": "/run/user/0", "HOME": "/root"}, 0)
    assert places.config_file == Path("/etc/ccexecd/ccexecd.toml")
    assert places.state_dir == Path("/var/lib/ccexecd")
    assert places.pidfile == Path("/run/ccexecd/ccexecd.pid")
    assert places.control_socket == Path("/run/ccexecd/control.sock")
    assert places.log_file == Path("/var/log/ccexecd/ccexecd.log")
    assert places.token_file == Path("/var/lib/ccexecd/token")


def test_places_of_a_user():
    """A user's daemon follows the XDG base directories."""
    environ = {
        "XDG_RUNTIME_DIR": "/run/user/4711",
        "XDG_STATE_HOME": "/s",
        "XDG_CONFIG_HOME": "/c",
    }
    places = default_places(environ, USER)
    assert places.config_file == Path("/c/ccexecd/ccexecd.toml")
    assert places.state_dir == Path("/s/ccexecd")
    assert places.control_socket == Path("/run/user/4711/ccexecd/control.sock")
    assert places.log_file == Path("/s/ccexecd/ccexecd.log")


def test_user_without_runtime_directory():
    """Without XDG_RUNTIME_DIR, as under cron, the runtime directory is below the state directory."""
    places = default_places({"HOME": "/home/u"}, USER)
    assert places.runtime_dir == Path("/home/u/.local/state/ccexecd/run")
    assert places.config_file == Path("/home/u/.config/ccexecd/ccexecd.toml")


def test_relative_xdg_directories_are_ignored():
    """A relative XDG directory counts as absent, as its specification demands."""
    environ = {"HOME": "/home/u", "XDG_STATE_HOME": "x", "XDG_RUNTIME_DIR": "y", "XDG_CONFIG_HOME": "z"}
    assert default_places(environ, USER) == default_places({"HOME": "/home/u"}, USER)


@pytest.mark.parametrize("uid", [0, USER])
def test_systemd_directories_win(uid: int):
    """The directories that systemd made for the unit are used by root's and by a user's daemon."""
    environ = {
        "HOME": "/home/u",
        "RUNTIME_DIRECTORY": "/run/ccexecd-one",
        "STATE_DIRECTORY": "/var/lib/ccexecd:/var/lib/second",
        "LOGS_DIRECTORY": "/var/log/ccexecd",
        "CONFIGURATION_DIRECTORY": "/etc/ccexecd",
    }
    places = default_places(environ, uid)
    assert places.runtime_dir == Path("/run/ccexecd-one")
    assert places.state_dir == Path("/var/lib/ccexecd")
    assert places.log_file == Path("/var/log/ccexecd/ccexecd.log")
    assert places.config_file == Path("/etc/ccexecd/ccexecd.toml")


def test_directories_of_another_service_are_not_ours():
    """A daemon started from inside another service never binds in that service's directories."""
    environ = {"RUNTIME_DIRECTORY": "/run/jenkins", "STATE_DIRECTORY": "/var/lib/jenkins"}
    assert default_places(environ, 0) == default_places({}, 0)


def test_no_home_directory_is_an_error_that_says_what_to_do():
    """A user without HOME and without a password entry is told about --state-dir."""
    with pytest.raises(PlaceError, match="--state-dir"):
        default_places({}, NOBODY_KNOWN)


def test_named_socket_is_the_only_candidate(tmp_path: Path):
    """Whoever names a daemon reaches that one or none; flags win over the environment."""
    environ = {"CCEXECD_SOCKET": "/e/s", "CCEXECD_STATE_DIR": "/e/d", "HOME": "/h"}
    assert candidate_sockets(environ, USER, tmp_path, tmp_path / "s") == [tmp_path / "s"]
    assert candidate_sockets(environ, USER, tmp_path) == [tmp_path / "control.sock"]
    assert candidate_sockets(environ, USER) == [Path("/e/s")]
    assert candidate_sockets({"CCEXECD_STATE_DIR": "/e/d"}, USER) == [Path("/e/d/control.sock")]
    assert candidate_sockets({"CCEXECD_CONTROL_SOCKET": "/e/c"}, USER) == [Path("/e/c")]


def test_candidates_of_a_user_end_with_the_system_daemon():
    """A user's own daemon is preferred, wherever it was started from, and root's is the last resort."""
    assert candidate_sockets({"XDG_RUNTIME_DIR": "/r", "HOME": "/h"}, USER) == [
        Path("/r/ccexecd/control.sock"),
        Path("/h/.local/state/ccexecd/run/control.sock"),
        Path("/run/ccexecd/control.sock"),
    ]
    assert candidate_sockets({}, NOBODY_KNOWN) == [
        Path(f"/run/user/{NOBODY_KNOWN}/ccexecd/control.sock"),
        Path("/run/ccexecd/control.sock"),
    ]
    assert candidate_sockets({}, 0) == [Path("/run/ccexecd/control.sock")]


def test_ctl_finds_what_the_daemon_binds():
    """The default socket of a daemon is among the candidates of the same user in the same environment."""
    for environ in ({"HOME": "/h"}, {"HOME": "/h", "XDG_RUNTIME_DIR": "/r"}):
        assert default_places(environ, USER).control_socket in candidate_sockets(environ, USER)


def test_private_directory_is_0700_with_its_new_parents(tmp_path: Path):
    """Every directory that is created belongs to the owner alone; the umask does not matter."""
    previous = os.umask(0)
    try:
        make_private_directory(tmp_path / "a" / "b", "state directory")
    finally:
        os.umask(previous)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_existing_directory_keeps_its_mode(tmp_path: Path):
    """A directory that an administrator or systemd prepared is not changed."""
    tmp_path.chmod(0o750)
    make_private_directory(tmp_path, "state directory")
    assert tmp_path.stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("below", ["", "sub"])
def test_file_in_the_way_is_reported(tmp_path: Path, below: str):
    """A file where a directory should be is named, with the reason and the way out."""
    (tmp_path / "f").touch(mode=0o755)
    with pytest.raises(PlaceError, match=r"state directory .*/f.*: Not a directory; choose .* --state-dir"):
        make_private_directory(tmp_path / "f" / below, "state directory")


def test_unwritable_directory_is_reported(tmp_path: Path):
    """A directory that this user cannot write is refused before anything was started."""
    code = (
        "import os, sys; from pathlib import Path; from ccexecd.paths import *\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: make_private_directory(Path(sys.argv[1]), 'state directory')\n"
        "except PlaceError as error: print(error)\n"
    )
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    for directory in ("/", "/proc/new"):
        told = subprocess.run([sys.executable, "-c", code, directory], capture_output=True, text=True, check=True)
        assert f"cannot use the state directory {directory}: " in told.stdout


@pytest.mark.parametrize("length", [SOCKET_PATH_MAX, SOCKET_PATH_MAX + 1, 400])
def test_socket_works_at_any_path_length(tmp_path: Path, length: int):
    """Bind and connect reach a socket whose path is longer than the kernel takes."""
    directory = tmp_path
    while len(str(directory)) < length - 2:
        directory /= "d" * min(100, max(1, length - 2 - len(str(directory)) - 1))
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "s"
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(socket_address(path, stack))
        server.listen()
        assert path.is_socket()
        client.connect(socket_address(path, stack))


def test_socket_descriptor_is_closed_with_the_stack(tmp_path: Path):
    """The descriptor of the directory lives no longer than the caller's stack."""
    before = set(Path("/proc/self/fd").iterdir())
    with ExitStack() as stack:
        long = tmp_path / ("d" * 100) / "s"
        long.parent.mkdir()
        assert socket_address(long, stack).startswith("/proc/self/fd/")
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_too_long_file_name_is_an_error(tmp_path: Path):
    """A file name that fits no socket address is refused, naming the path."""
    with ExitStack() as stack, pytest.raises(OSError, match="too long for a socket"):
        socket_address(tmp_path / ("n" * 120), stack)


def test_imports_only_the_standard_library():
    """ccexecctl pays for this module on every start: nothing outside the standard library comes with it."""
    code = "import sys, ccexecd.paths; print(sorted({m.split('.')[0] for m in sys.modules} - sys.stdlib_module_names))"
    told = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "['__main__', 'ccexecd']"
