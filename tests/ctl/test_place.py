"""Where the daemon is looked for."""

from argparse import Namespace
from pathlib import Path

import pytest

from ccexecctl import place as place_module
from ccexecctl.client import connect
from ccexecctl.errors import CtlError, NotRunningError
from ccexecd import paths

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
