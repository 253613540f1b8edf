"""The conversation over the control socket: framing, time-outs, and what each failure comes to."""

import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from ccexecctl import __main__ as ctl_main
from ccexecctl import client as client_module
from ccexecd.protocol.errors import ErrorCode

NOBODY = 65534


def test_a_missing_socket_is_not_running(ctl, tmp_path):
    """Without a daemon: exit 3 at once, with the path, the reason and what to do."""
    before = time.monotonic()
    said = ctl("status")
    assert said.code == 3
    assert f"ccexecctl: ccexecd is not running ({tmp_path}/d/control.sock: no such file or directory)" in said.err
    assert f"hint: start it with: ccexecctl --state-dir {tmp_path}/d start" in said.err
    assert time.monotonic() - before < 2


def test_a_stale_socket_is_not_running(ctl, stopped_daemon):
    """A socket file that a killed daemon left behind is refused by the kernel: exit 3."""
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(stopped_daemon.path))
    left.close()
    said = ctl("status")
    assert said.code == 3
    assert "connection refused" in said.err


def test_a_daemon_that_is_starting_is_waited_for(ctl, stopped_daemon):
    """While the lock is held, a socket that is not there yet is tried again."""
    stopped_daemon.hold_lock()
    opening = threading.Timer(0.3, stopped_daemon.listen)
    opening.start()
    assert ctl("health").code == 0
    opening.join()


def test_a_lock_without_a_socket_is_a_failure(ctl, stopped_daemon, monkeypatch):
    """A daemon that holds its lock but does not listen is not called "not running": exit 1, and how to end it."""
    monkeypatch.setattr(client_module, "STARTING_PATIENCE", 0.1)
    stopped_daemon.hold_lock()
    said = ctl("status")
    assert said.code == 1
    assert "although a daemon holds its lock" in said.err
    assert "ccexecctl stop --force" in said.plain


def test_a_refusal_at_the_door_is_not_permitted(ctl, daemon):
    """A daemon that closes with NOT_PERMITTED before it reads anything: exit 4 with its words."""

    def refuse(conversation, request):
        error = {"code": int(ErrorCode.NOT_PERMITTED), "message": "uid 1000 may not"}
        conversation.send({"id": None, "error": error})
        conversation.close()

    daemon.answers["status"] = refuse
    said = ctl("status")
    assert said.code == 4
    assert "uid 1000 may not" in said.err


def test_a_refusal_that_overtakes_the_request_is_still_read(stopped_daemon):
    """The daemon may refuse and close before we have written: its reason is reported, not the broken pipe."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(stopped_daemon.path))
    listener.listen()
    ours = socket.socket(socket.AF_UNIX)
    ours.connect(str(stopped_daemon.path))
    theirs, _ = listener.accept()
    theirs.sendall(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32110,"message":"no"}}\n')
    theirs.close()
    with client_module.Client(ours, stopped_daemon.path) as client, pytest.raises(client_module.RefusedError):
        client.call("status")
    listener.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_socket_of_somebody_else_is_not_permitted(ctl, daemon):
    """The kernel's own refusal is exit 4 too."""
    assert ctl("health").code == 0  # all that is needed has been imported, for "nobody" may not read this interpreter
    os.seteuid(NOBODY)
    try:
        said = ctl("health")
    finally:
        os.seteuid(0)
    assert said.code == 4
    assert "permission denied" in said.err
    assert "sudo" in said.err


def test_an_answer_in_pieces_is_put_together(ctl, daemon):
    """An answer may arrive byte by byte."""

    def dribble(conversation, request):
        text = json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": {"status": "healthy"}}) + "\n"
        for byte in text.encode():
            conversation.raw(bytes([byte]))

    daemon.answers["health"] = dribble
    assert ctl("health").out == "healthy\n"


def test_other_messages_before_the_answer_are_not_taken_for_it(ctl, daemon):
    """Notifications and late answers to nobody do not disturb a call."""

    def chatter(conversation, request):
        conversation.notify("connected")
        conversation.send({"id": 999, "result": "late"})
        conversation.reply(request, {"status": "healthy"})

    daemon.answers["health"] = chatter
    assert ctl("health").out == "healthy\n"


def test_a_signal_may_ask_in_the_midst_of_asking():
    """What a handler sends goes behind what is being sent, never into it; nothing is left behind."""
    ours, theirs = socket.socketpair()
    client = client_module.Client(ours, Path("x"))
    received = bytearray()

    def read() -> None:
        while piece := theirs.recv(1 << 20):
            received.extend(piece)

    def ask(*_: object) -> None:
        asked.append(client.send("small"))

    asked: list[int] = []
    before = signal.signal(signal.SIGALRM, ask)
    reader = threading.Thread(target=read)
    reader.start()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        with client:
            large = [client.send("large", {"text": "x" * 500_000}) for _ in range(200)]
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        reader.join()
        theirs.close()
    requests = [json.loads(line) for line in received.splitlines()]
    assert sorted(request["id"] for request in requests) == sorted(large + asked)
    assert len({*large, *asked}) == len(large) + len(asked)
    assert asked


def test_a_message_or_something_else_is_waited_for():
    """Each is told, both are told, and what has been read already counts."""
    ours, theirs = socket.socketpair()
    elsewhere, feed = os.pipe()
    with client_module.Client(ours, Path("x")) as client, theirs:
        os.write(feed, b"x")
        assert client.message_or(elsewhere) == (False, True)
        theirs.sendall(b'{"method": "a"}\n{"method": "b"}\n')
        assert client.message_or(elsewhere) == (True, True)
        os.read(elsewhere, 1)
        assert client.message_or(elsewhere) == (True, False)
        assert client.next_message() == {"method": "a"}
        assert client.message_or(elsewhere) == (True, False)
    os.close(elsewhere)
    os.close(feed)


def test_a_long_answer_is_read_whole(ctl, daemon):
    """Ten megabytes of executions are an answer like any other."""
    one = {"execution_id": "e" * 36, "state": "RUNNING", "command": "x" * 1000, "pid": 1, "started_at": None}
    daemon.answers["list"] = {"executions": [{**one, "duration": 1.0}] * 10_000}
    assert len(ctl("ps", "--json").json) == 10_000


def test_an_endless_line_is_refused(ctl, daemon, monkeypatch):
    """An answer over the limit ends the conversation instead of filling the memory."""
    monkeypatch.setattr(client_module, "LINE_LIMIT", 1000)
    daemon.answers["health"] = lambda conversation, _: conversation.raw(b"x" * 2000)
    said = ctl("health")
    assert said.code == 1
    assert "longer than 1000 bytes" in said.err


@pytest.mark.parametrize("garbage", [b"hello\n", b"[]\n", b"{}\n", b"\xff\xfe\n", b"[" * 100_000 + b"\n"])
def test_an_answer_that_is_no_message_is_a_failure(ctl, daemon, garbage):
    """Whatever sits behind the socket, the result is one sentence and exit 1."""
    daemon.answers["health"] = lambda conversation, _: conversation.raw(garbage)
    said = ctl("health")
    assert said.code == 1
    assert "cannot understand the answer" in said.err


def test_a_daemon_that_goes_away_is_a_failure(ctl, daemon):
    """A connection that ends before the answer: exit 1, and where to look."""
    daemon.answers["health"] = lambda conversation, _: conversation.close()
    said = ctl("health")
    assert said.code == 1
    assert "lost the connection" in said.err


def test_a_silent_daemon_is_given_up(ctl, daemon):
    """--timeout bounds the wait for an answer."""
    daemon.answers["health"] = lambda *_: None
    said = ctl("health", "--timeout", "0.2")
    assert said.code == 1
    assert "did not answer 'health' in time" in said.err


def test_a_long_socket_path_is_reached(ctl, tmp_path, daemon):
    """Paths over the kernel's 107 bytes work."""
    deep = tmp_path / ("d" * 120)
    deep.symlink_to(daemon.directory)
    assert ctl("--socket", str(deep / "control.sock"), "health").code == 0


def test_a_named_socket_is_the_only_one(ctl, daemon, tmp_path):
    """Who names a socket never reaches another daemon."""
    said = ctl("health", "--socket", str(tmp_path / "other.sock"))
    assert said.code == 3


def test_the_environment_names_the_socket(ctl, daemon, monkeypatch, tmp_path):
    """$CCEXECD_SOCKET counts where no option does."""
    monkeypatch.setenv("CCEXECD_SOCKET", str(tmp_path / "other.sock"))
    assert ctl("health").code == 0  # --state-dir does count
    assert ctl_main.main(["health"]) == 3
