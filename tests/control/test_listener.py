"""The control socket as the file system and the kernel see it."""

import errno
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
import trio

from ccexecd.control import listener as listener_module
from ccexecd.control.listener import PeerCredentials, bind, credentials, groups_of, remove
from ccexecd.paths import SOCKET_PATH_MAX, socket_address
from tests.in_process import descriptors

NOBODY = 65534
GROUP = 4242

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


_CONNECT = """
import os, socket, sys
path, uid, gid, *groups = sys.argv[1:]
os.setgroups([*map(int, groups)])
os.setgid(int(gid))
os.setuid(int(uid))
with socket.socket(socket.AF_UNIX) as one:
    print(one.connect_ex(path), flush=True)
    input()
"""


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that every user can enter."""
    directory = Path(tempfile.mkdtemp(prefix="ccexecd-", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@contextmanager
def connected_as(path: Path, uid: int, gid: int, groups: list[int]) -> Iterator[int]:
    """A connection by a process of another user, open as long as the block: 0, or the error number."""
    words = [sys.executable, "-I", "-c", _CONNECT, str(path), str(uid), str(gid), *map(str, groups)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield int(process.stdout.readline())
        process.stdin.write("\n")


@contextmanager
def bound(path: Path, groups: Collection[int] = ()) -> Iterator[trio.SocketListener]:
    listener = bind(path, None, groups)
    with closing(listener.socket):
        yield listener


@contextmanager
def umask(mask: int) -> Iterator[None]:
    previous = os.umask(mask)
    try:
        yield
    finally:
        assert os.umask(previous) == mask, "somebody has changed the umask for good"


def connect(path: Path) -> socket.socket:
    """Connect at once, or raise: a full backlog would be waited for."""
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with ExitStack() as stack:
            connected.connect(socket_address(path, stack))
    except OSError:
        connected.close()
        raise
    return connected


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


async def greeted(listener: trio.SocketListener, path: Path) -> bool:
    """Whether who connects to the path reaches this listener."""
    with closing(connect(path)) as client, trio.fail_after(5):
        stream = await listener.accept()
        client.send(b"x")
        async with stream:
            return await stream.receive_some() == b"x"


@pytest.mark.parametrize("mask", [0, 0o077, 0o777])
async def test_the_socket_is_for_its_owner_only(tmp_path, mask):
    """Whatever the umask, nobody but the owner (and root) can connect; and the umask is what it was."""
    path = tmp_path / "control.sock"
    with umask(mask), bound(path):
        assert stat.S_ISSOCK(path.lstat().st_mode)
        assert mode_of(path) == 0o600


async def test_the_socket_has_its_mode_before_it_has_its_name(tmp_path, monkeypatch):
    """Others cannot connect at any moment: the socket is renamed into place with its mode, and listens already."""
    path = tmp_path / "control.sock"
    seen = []

    def look(self: Path, target: Path) -> Path:
        seen.append((mode_of(self), path.exists()))
        connect(self).close()
        return rename(self, target)

    rename = Path.rename
    monkeypatch.setattr(Path, "rename", look)
    with umask(0), bound(path):
        assert seen == [(0o600, False)]
        assert [each.name for each in tmp_path.iterdir()] == ["control.sock"]


async def test_nobody_is_refused_while_the_socket_is_replaced(tmp_path, monkeypatch):
    """A client reaches the old socket or the new one: at no moment is there none, or one that does not listen."""
    monkeypatch.setattr(listener_module, "_is_listened_on", lambda _: False)
    path = tmp_path / "control.sock"
    refused: list[OSError] = []
    connections = 0
    over = threading.Event()

    def keep_connecting() -> None:
        nonlocal connections
        while not over.is_set():
            try:
                connect(path).close()
                connections += 1
            except BlockingIOError:  # a backlog is full: nobody accepts here
                continue
            except OSError as error:
                refused.append(error)

    with ExitStack() as stack:
        stack.enter_context(bound(path))
        client = threading.Thread(target=keep_connecting)
        client.start()
        for _ in range(200):
            stack.enter_context(bound(path))
        over.set()
        client.join(10)
    assert not refused
    assert connections


async def test_a_socket_that_was_left_behind_is_replaced(tmp_path):
    """After `kill -9` of a daemon the next one just takes the path."""
    path = tmp_path / "control.sock"
    with bound(path):
        pass
    with pytest.raises(ConnectionRefusedError):
        connect(path)
    with bound(path) as listener:
        assert await greeted(listener, path)


async def test_what_is_no_socket_stays(tmp_path):
    """A file that happens to lie at the path is not ours to replace, and at the end not ours to remove."""
    path = tmp_path / "control.sock"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="not a socket, so it stays"):
        bind(path)
    remove(path)
    assert path.read_text() == "precious"


async def test_a_socket_that_is_listened_on_stays(tmp_path):
    """Two daemons that were given one control socket: the second is refused, the first stays reachable."""
    path = tmp_path / "control.sock"
    with bound(path):
        with pytest.raises(OSError, match="another program listens"):
            bind(path)
        connect(path).close()


async def test_a_signpost_leads_to_the_socket(tmp_path):
    """Whoever looks in the usual place reaches it; one that was left is replaced, and the end takes both away."""
    path, usual = tmp_path / "elsewhere.sock", tmp_path / "control.sock"
    usual.symlink_to(tmp_path / "gone")
    listener = bind(path, usual)
    with closing(listener.socket):
        assert await greeted(listener, usual)
        remove(path, usual)
    assert list(tmp_path.iterdir()) == []


async def test_a_start_that_was_killed_half_way_is_no_obstacle(tmp_path):
    """The unnamed socket of a daemon that died before its rename, perhaps with this very pid, is replaced, too."""
    path = tmp_path / "control.sock"
    with closing(socket.socket(socket.AF_UNIX)) as abandoned:
        abandoned.bind(str(tmp_path / f".control.sock.{os.getpid()}"))
    with bound(path) as listener:
        assert await greeted(listener, path)
        assert [each.name for each in tmp_path.iterdir()] == ["control.sock"]


async def test_a_path_may_be_longer_than_the_kernel_takes(tmp_path):
    """A path of more than 107 bytes is bound, connected to and removed like any other."""
    path = tmp_path.joinpath(*["d" * 60] * 4) / "control.sock"
    path.parent.mkdir(parents=True)
    assert len(os.fsencode(path)) > SOCKET_PATH_MAX == 107
    before = descriptors()
    with bound(path) as listener:
        assert mode_of(path) == 0o600
        assert await greeted(listener, path)
        remove(path)
        assert not path.exists()
    assert descriptors() == before


def _name_too_long(directory: Path) -> Path:
    return directory / ("s" * 120)


def _directory_missing(directory: Path) -> Path:
    return directory / "missing" / "control.sock"


def _directory_in_the_way(directory: Path) -> Path:
    path = directory / "control.sock"
    path.mkdir()
    return path


def _file_for_a_directory(directory: Path) -> Path:
    (directory / "file").touch()
    return directory / "file" / "control.sock"


@pytest.mark.parametrize(
    ("make", "number"),
    [
        (_name_too_long, errno.ENAMETOOLONG),
        (_directory_missing, errno.ENOENT),
        (_directory_in_the_way, errno.EEXIST),
        (_file_for_a_directory, errno.ENOTDIR),
    ],
)
def test_a_path_that_cannot_be_bound_leaves_nothing_behind(tmp_path, make, number):
    """The kernel's reason comes through; no socket file, no descriptor and no changed umask stay."""
    path = make(tmp_path)
    files, before = sorted(tmp_path.rglob("*")), descriptors()
    with umask(0o022), pytest.raises(OSError) as caught:  # noqa: PT011  # its number is looked at
        bind(path)
    assert caught.value.errno == number
    assert sorted(tmp_path.rglob("*")) == files
    assert descriptors() == before


async def test_programs_do_not_inherit_the_socket(tmp_path):
    """The listening descriptor closes on exec: an execution must not be able to answer in the daemon's place."""
    with bound(tmp_path / "control.sock") as listener:
        assert not os.get_inheritable(listener.socket.fileno())


async def test_removing_twice_is_no_error(tmp_path):
    """The file may have gone already, with its directory even: at the end of the daemon that is fine."""
    path = tmp_path / "control.sock"
    with bound(path):
        remove(path)
        remove(path)


async def test_the_kernel_tells_who_has_connected(tmp_path):
    """Pid, uid and gid of the peer are those of its connect()."""
    path = tmp_path / "control.sock"
    with bound(path) as listener, closing(connect(path)):
        async with await listener.accept() as stream:
            assert credentials(stream) == PeerCredentials(os.getpid(), os.geteuid(), os.getegid())


@root
async def test_the_kernel_tells_the_groups_of_who_has_connected(open_place):
    """The process's own group and its supplementary ones, which SO_PEERCRED does not have."""
    path = open_place / "control.sock"
    with bound(path, {GROUP}) as listener, connected_as(path, NOBODY, NOBODY, [GROUP, 4711]):
        async with await listener.accept() as stream:
            assert set(groups_of(stream)) == {NOBODY, GROUP, 4711}


@root
async def test_more_groups_than_python_can_ask_for(open_place, monkeypatch):
    """The user's groups as the machine knows them take the place of a list that is too long."""
    path = open_place / "control.sock"
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: [gid, 1] if name == "nobody" else [])
    with bound(path, {GROUP, 1}) as listener, connected_as(path, NOBODY, NOBODY, list(range(5000, 5300))):
        async with await listener.accept() as stream:
            assert set(groups_of(stream)) == {NOBODY, 1}


@root
async def test_one_group_is_let_in_and_nobody_else(open_place):
    """The socket becomes the group's, and the directory lets it pass without showing what is in it."""
    directory = open_place / "run"
    directory.mkdir(0o700)
    path = directory / "control.sock"
    with bound(path, {GROUP}):
        assert (mode_of(path), path.stat().st_gid) == (0o660, GROUP)
        assert (mode_of(directory), directory.stat().st_gid) == (0o710, GROUP)
        with connected_as(path, NOBODY, NOBODY, [GROUP]) as code:
            assert code == 0
        with connected_as(path, NOBODY, NOBODY, []) as code:
            assert code == errno.EACCES


@root
async def test_several_groups_are_let_as_far_as_the_kernels_word(tmp_path):
    """A file has one group: for two, everybody may connect, and is judged then."""
    directory = tmp_path / "run"
    directory.mkdir(0o700)
    path = directory / "control.sock"
    with bound(path, {GROUP, GROUP + 1}):
        assert mode_of(path) == 0o666
        assert mode_of(directory) == 0o701


async def test_without_groups_the_directory_stays_as_it_is(tmp_path):
    """Nothing is opened for nobody."""
    tmp_path.chmod(0o700)
    with bound(tmp_path / "control.sock"):
        assert mode_of(tmp_path) == 0o700


async def test_a_group_that_is_not_ours_to_give(tmp_path, monkeypatch):
    """A daemon that is neither root nor a member says so, and leaves no socket."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(OSError, match=f"cannot let group {GROUP} use the control socket: only root or a member"):
        bind(tmp_path / "control.sock", None, {GROUP})
    assert not list(tmp_path.iterdir())
