"""Where the daemon is looked for."""

import errno
import os
import socket
from argparse import Namespace
from pathlib import Path

import pytest

from ccexecctl import client
from ccexecctl import place as place_module
from ccexecctl.client import connect
from ccexecctl.errors import CtlError, NotPermittedError, NotRunningError
from ccexecd import paths, pidfile

SYSTEM = Path("/run/ccexecd/control.sock")


def locate(state_dir=None, socket=None):
    return place_module.locate(Namespace(state_dir=state_dir, socket=socket))


def user_place(tmp_path):
    """The place of a user who is not root, wherever these tests run."""
    environ = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "runtime")}
    return place_module.Place(
        paths.default_places(environ, 1000), paths.candidate_sockets(environ, 1000), is_named=False
    )


def test_a_state_directory_is_the_only_place(tmp_path, monkeypatch):
    """--state-dir, or CCEXECD_STATE_DIR as the daemon reads it: everything is in there."""
    by_option = locate(state_dir=str(tmp_path))
    monkeypatch.setenv("CCEXECD_STATE_DIR", str(tmp_path))
    assert by_option.sockets == locate().sockets == [tmp_path / "control.sock"]
    assert by_option.paths.pidfile == locate().paths.pidfile == tmp_path / "ccexecd.pid"
    assert not by_option.is_named


def test_a_named_socket_is_the_only_one(tmp_path, monkeypatch):
    """--socket before $CCEXECD_SOCKET; an option about the directory is stronger than the variable."""
    monkeypatch.setenv("CCEXECD_SOCKET", str(tmp_path / "b.sock"))
    assert locate().sockets == [tmp_path / "b.sock"]
    assert locate().is_named
    assert locate(socket=str(tmp_path / "a.sock")).sockets == [tmp_path / "a.sock"]
    assert not locate(state_dir=str(tmp_path)).is_named


def test_a_user_falls_back_to_the_machine_s_daemon(tmp_path):
    """Questions go to it when there is no own one; starting and stopping is about the own one."""
    place = user_place(tmp_path)
    assert place.sockets[0] == tmp_path / "runtime/ccexecd/control.sock"
    assert place.sockets[-1] == SYSTEM
    assert SYSTEM not in place.own().sockets
    assert place.own().pidfiles >= {tmp_path / "runtime/ccexecd/ccexecd.pid"}


def test_the_first_place_is_the_one_that_is_told_of(tmp_path):
    """With nobody anywhere, the message names the place where this user's daemon would be."""
    with pytest.raises(NotRunningError, match=r"runtime/ccexecd/control\.sock"):
        connect(user_place(tmp_path).own())


def test_no_place_is_an_error_in_words(monkeypatch):
    """A user without a home directory is told what to do."""

    def no_home(**_):
        raise paths.PlaceError("no home directory; set HOME or choose --state-dir DIR")

    monkeypatch.setattr(paths, "default_places", no_home)
    with pytest.raises(CtlError, match="choose --state-dir"):
        locate()


def test_a_pidfile_that_cannot_be_read_counts_as_free(tmp_path):
    """Another user's directory says nothing about our daemon."""
    (tmp_path / "file").touch()
    assert not place_module.is_held(tmp_path / "file" / "ccexecd.pid")
    assert place_module.holder(tmp_path / "file" / "ccexecd.pid") is None


def configured(monkeypatch, tmp_path, text):
    """A configuration file where a daemon of this user looks for it, and the place that results."""
    file = tmp_path / "c" / "ccexecd.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    monkeypatch.setenv("CCEXECD_CONFIG", str(file))
    return locate()


@pytest.mark.parametrize("text", ['state_dir = "y"\n', 'state_dir = "~/y"\n'])
def test_the_configuration_names_the_place(tmp_path, monkeypatch, text):
    """The file's `state_dir` counts from the file, as the daemon reads it; flags and variables are stronger."""
    directory = tmp_path / ("home/y" if "~" in text else "c/y")
    place = configured(monkeypatch, tmp_path, text)
    assert place.sockets == place.own().sockets == [directory / "control.sock"]
    assert place.paths.pidfile == directory / "ccexecd.pid"
    assert locate(state_dir="/d").sockets == [Path("/d/control.sock")]
    assert locate(socket="/s").sockets == [Path("/s")]
    monkeypatch.setenv("CCEXECD_STATE_DIR", "/e")
    assert locate().sockets == [Path("/e/control.sock")]


def test_the_configuration_names_the_socket(tmp_path, monkeypatch):
    """It is tried behind the usual place, where the daemon leaves a link to it, and before the machine's."""
    usual = locate().sockets
    place = configured(monkeypatch, tmp_path, 'control_socket = "x.sock"\n')
    assert place.sockets == [usual[0], tmp_path / "c/x.sock", *usual[1:]]
    assert place.own().sockets[:2] == place.sockets[:2]
    monkeypatch.setenv("CCEXECD_CONTROL_SOCKET", "~/z.sock")
    assert locate().sockets == [tmp_path / "home/z.sock"]


@pytest.mark.parametrize("text", ["state_dir = ", "state_dir = 5", "# state_dir", 'state_dir = ""'])
def test_a_configuration_that_says_nothing_changes_nothing(tmp_path, monkeypatch, text):
    """What is wrong with it is ccexecd's to tell."""
    usual = locate()
    assert configured(monkeypatch, tmp_path, text).sockets == usual.sockets


def test_a_link_of_a_daemon_that_was_killed_leads_nowhere(tmp_path):
    """Behind a link that was left there may be another daemon by now: without the lock beside it, nobody is there."""
    (tmp_path / "ccexecd.pid").touch()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "other.sock"))
        other.listen()
        (tmp_path / "control.sock").symlink_to(tmp_path / "other.sock")
        with pytest.raises(NotRunningError):
            connect(locate(state_dir=str(tmp_path)))
        held = pidfile.PidFile(tmp_path / "ccexecd.pid").acquire()
        with connect(locate(state_dir=str(tmp_path))):
            pass
        held.release()


@pytest.mark.parametrize("held", [False, True])
def test_what_nobody_can_see_is_not_running(tmp_path, monkeypatch, held):
    """The machine's place is closed to this user: unless a lock shows that a daemon lives, only the own one counts."""
    monkeypatch.setattr(paths, "_ROOT_RUNTIME", tmp_path / "run")
    (tmp_path / "run").mkdir()
    lock = pidfile.PidFile(tmp_path / "run" / "ccexecd.pid").acquire()
    if not held:
        lock.close()

    def closed(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    place, reach = user_place(tmp_path), client._open
    monkeypatch.setattr(client, "_open", lambda path: closed(path) if path == place.sockets[-1] else reach(path))
    with pytest.raises(NotPermittedError if held else NotRunningError) as caught:
        connect(place)
    assert ("start it with" in caught.value.hint) is not held
    lock.close()
