"""How daemons share durations through a real Redis server, and what they make of one that is gone, or not honest."""

import signal
import sys
from pathlib import Path

import pytest
from redis import Redis

from ccexecd.core.kinds import kind_of
from ccexecd.storage import shared_timings
from ccexecd.storage.shared_timings import STREAM, SharedTimings, SharingError
from ccexecd.storage.timings import Timing
from tests.redis_server import PASSWORD, RedisServer, redis_server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with redis_server(tmp_path_factory.mktemp("redis")) as one:
        yield one


@pytest.fixture
def client(server):
    """A client of the test's own; the stream is empty."""
    with Redis.from_url(server.url, password=PASSWORD) as one:
        one.delete(STREAM)
        yield one


def timing(command: str, seconds: float = 1.0, principal: str = "me", *, is_complete: bool = True) -> Timing:
    kind = kind_of(("sh", "-c", command), command, "/w", shell=True)
    return Timing(principal, kind, seconds, is_complete, 12.5)


@pytest.fixture
def daemons(server, client):
    """What makes a daemon's end of it, by its name."""
    made = []

    def make(name: str) -> SharedTimings:
        made.append(SharedTimings(server.url, server.password_file, Path(name)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_one_learns_what_the_other_has_seen(daemons):
    """All marks, in order; nothing twice, and nothing of its own."""
    one, other = daemons("one"), daemons("other")
    seen = [timing("make", 1.25), timing("make test", 2e5, "ci", is_complete=False)]
    assert one.exchange([]) == []
    assert one.exchange(seen) == []
    assert other.exchange([timing("ls")]) == seen
    assert other.exchange([]) == []
    assert one.exchange([]) == [timing("ls")]
    assert daemons("third").exchange([]) == [*seen, timing("ls")]
    assert daemons("one").exchange([]) == [timing("ls")]  # started again: its own history has the rest


def test_a_later_start_reads_the_newest(daemons, monkeypatch):
    """No more than it would learn from its own history; then what is added, some at a time."""
    monkeypatch.setattr(shared_timings, "MOST_LEARNT", 3)
    monkeypatch.setattr(shared_timings, "AT_ONCE", 2)
    one, other = daemons("one"), daemons("other")
    one.exchange([timing("x", float(number)) for number in range(1, 11)])
    assert [each.seconds for each in other.exchange([])] == [8, 9, 10]
    one.exchange([timing("x", float(number)) for number in range(11, 14)])
    assert [each.seconds for each in other.exchange([])] == [11, 12]
    assert [each.seconds for each in other.exchange([])] == [13]


def test_nothing_of_a_command_leaves_the_machine(daemons, client):
    """Its marks do: what is folded away is not in them."""
    daemons("one").exchange([timing("mysql -phunter2 -e 'select secret' https://me:hunter2@x/hunter2")])
    ((_, fields),) = client.xrange(STREAM)
    assert not any(word in repr(fields) for word in ("hunter2", "select", "secret"))
    assert set(fields) == {
        *(
            b"daemon",
            b"principal",
            b"category",
            b"program",
            b"form",
            b"same",
            b"place",
            b"seconds",
            b"complete",
            b"load",
        )
    }


GOOD = {
    "daemon": "x",
    "principal": "me",
    "category": "build",
    "program": "make",
    "form": "make",
    "same": "0" * 16,
    "place": "1" * 16,
    "seconds": "5",
    "complete": "1",
    "load": "50",
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"category": "nonsense"},
        {"seconds": "nan"},
        {"seconds": "inf"},
        {"seconds": "-1"},
        {"seconds": "1e300"},
        {"seconds": "soon"},
        {"load": "nan"},
        {"load": "101"},
        {"same": "0" * 15},
        {"place": ""},
        {"form": "x" * 257},
        {"principal": "x" * 100_000},
        {"program": b"\xff" * 300},
    ],
    ids="-".join,
)
def test_what_is_not_ours_is_passed_over(daemons, client, wrong):
    """Whoever can write there cannot make us stumble; what is good among it is read."""
    client.xadd(STREAM, {"hello": "world"})
    client.xadd(STREAM, {**GOOD, **wrong})
    client.xadd(STREAM, GOOD)
    assert [each.seconds for each in daemons("one").exchange([])] == [5.0]


def test_a_key_of_another_kind_is_an_error_like_any_other(daemons, client):
    """Somebody else uses the name."""
    client.set(STREAM, "something")
    with pytest.raises(SharingError, match="WRONGTYPE"):
        daemons("one").exchange([])


def test_it_goes_on_when_the_server_is_back(tmp_path):
    """Gone, it is an error; back, what was not shared is given again."""
    with redis_server(tmp_path) as server:
        one = SharedTimings(server.url, server.password_file, tmp_path)
        one.exchange([])
        server.stop()
        with pytest.raises(SharingError, match=r"unix://.*"):
            one.exchange([timing("make")])
        server.start()
        assert one.exchange([timing("make")]) == []
        assert SharedTimings(server.url, server.password_file, tmp_path / "x").exchange([]) == [timing("make")]
        one.close()


def test_a_server_that_hangs_is_not_waited_for(tmp_path, monkeypatch):
    """Longer than the patience."""
    monkeypatch.setattr(shared_timings, "PATIENCE", 0.2)
    with redis_server(tmp_path) as server:
        one = SharedTimings(server.url, server.password_file, tmp_path)
        server.pause(signal.SIGSTOP)
        with pytest.raises(SharingError, match=r"(?i)time"):
            one.exchange([])
        server.pause(signal.SIGCONT)
        assert one.exchange([]) == []
        one.close()


def test_what_keeps_it_from_the_server_is_told(server: RedisServer, tmp_path, monkeypatch):
    """A wrong password, no password, no file of it, no library: each says so, and never the password."""
    wrong, none = tmp_path / "wrong", tmp_path / "none"
    wrong.write_text("hunter2")
    for file, reason in ((wrong, "invalid username-password|WRONGPASS"), (None, "(?i)auth"), (none, "No such file")):
        with pytest.raises(SharingError, match=reason) as failure:
            SharedTimings(server.url, file, tmp_path).exchange([])
        assert "hunter2" not in str(failure.value)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(SharingError, match=r"pip install 'ccexecd\[redis\]'"):
        SharedTimings(server.url, None, tmp_path).exchange([])
