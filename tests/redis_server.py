"""A real Redis server for a test: its own, on a Unix socket below the test's directory."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PASSWORD = "let me in: please"


class RedisServer:
    """One server, which can be stopped and started again.

    Attributes:
        url: where it is, as the configuration has it.
        password_file: what admits to it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._socket = Path(f"/tmp/ccexecd-redis-{os.getpid()}-{id(self):x}.sock")  # a short path: they have 107 bytes
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._socket}"
        self.password_file = directory / "redis-password"
        self.password_file.write_text(f"default:{PASSWORD}\n")

    def start(self) -> None:
        """Returns when it answers."""
        words = ["--port", "0", "--unixsocket", str(self._socket), "--dir", str(self._directory), "--save", ""]
        self._process = subprocess.Popen(
            ["redis-server", *words, "--requirepass", PASSWORD], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 20
        while not self._socket.exists():
            assert self._process.poll() is None, "the server has ended"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.01)

    def stop(self) -> None:
        """Kill it, as a machine does that goes down."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._socket.unlink(missing_ok=True)

    def pause(self, signum: int) -> None:
        """Have it stop or go on: it accepts connections, and answers nothing meanwhile."""
        assert self._process is not None
        self._process.send_signal(signum)


@contextmanager
def redis_server(directory: Path) -> Iterator[RedisServer]:
    """A server that runs, as long as the block does."""
    pytest.importorskip("redis", reason="needs the redis library: pip install '.[test]'")
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server: .ci/packages installs it")
    server = RedisServer(directory)
    server.start()
    try:
        yield server
    finally:
        server.stop()
