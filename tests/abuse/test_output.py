"""What programs print under abuse: every byte is kept and told, and none of it means anything to the daemon."""

import base64
import hashlib
import os
import signal

import pytest
import trio

from tests.e2e.client import Client, connect
from tests.e2e.daemon_process import eventually

PRINTED: dict[str, str] = {
    "nothing": "b''",
    "every byte": "bytes(range(256)) * 500",
    "a NUL": r"b'\0'",
    "a megabyte of NULs": "bytes(1 << 20)",
    "NULs in lines": r"b'a\0b\n' * 10_000",
    "half a character at the end": r"b'caf\xc3'",
    "nothing but halves": r"b'\xc3' * 100_000",
    "nothing but continuations": r"b'\x80' * 100_000",
    "surrogates": r"b'\xed\xa0\x80\xed\xb0\x80\n' * 1000",
    "overlong": r"b'\xc0\xaf\xf8\x88\x80\x80\x80\n' * 1000",
    "four-byte characters": r"'\U0001f600'.encode() * 300_000",
    "a million empty lines": r"b'\n' * 1_000_000",
    "a line of 16 MB": r"b'x' * (16 << 20) + b'\n'",
    "carriage returns only": r"b'progress\r' * 20_000",
    "other line ends": r"'a\u2028b\u2029c\x85d\x0b\x0c\x1c\n'.encode() * 1000",
    "terminal escapes": r"b'\x1b]0;owned\x07\x1b[2J\x1b[6n\x1bP+q\x1b\\\x9b' * 2000",
    "text that runs backwards": r"'\u202egnp.exe\u2066\n'.encode() * 1000",
    "byte order marks": r"b'\xef\xbb\xbf\xff\xfe\xfe\xff\n' * 1000",
    "an answer": r"""b'{"jsonrpc":"2.0","id":1,"result":{}}\n' * 1000""",
    "its own end": r"""b'{"jsonrpc":"2.0","method":"process.completed","params":{"exit_code":0}}\n' * 1000""",
    "a request": r"""b'{"jsonrpc":"2.0","id":9,"method":"stop"}\n' * 100""",
    "JSON that is broken": r"""b'{"a":' * 20_000""",
    "WebSocket frames": r"b'\x88\x02\x03\xe8\x81\x05hello' * 5000",
    "events of a stream": r"b'event: completed\ndata: {}\n\n' * 5000",
    "an answer of HTTP": r"b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n' * 1000",
    "format strings": r"b'%s%n{0.__class__}$(reboot)`x`\n' * 1000",
    "noise": "__import__('random').Random(7).randbytes(300_000)",
}
"""What a program prints, as an expression that it and this test evaluate."""

TORN = (
    "nothing",
    "every byte",
    "half a character at the end",
    "nothing but continuations",
    "four-byte characters",
    "noise",
)
"""Those that other cuts could tear in two."""

SCRIPTS: dict[str, tuple[str, str, int]] = {
    "a character in two writes": (
        "import os; [os.write(1, bytes([b])) for b in 'h\\u00e9\\U0001f600\\n'.encode() * 200]",
        "'h\\u00e9\\U0001f600\\n' * 200",
        0,
    ),
    "stdout is closed, and it goes on": (
        "import os, time; os.write(1, b'before\\n'); os.close(1); time.sleep(0.1); os.write(2, b'here'); os._exit(3)",
        "'before\\n'",
        3,
    ),
    "both are closed, and it goes on": (
        "import os, time; os.write(1, b'before\\n'); os.closerange(0, 3); time.sleep(0.1); os._exit(4)",
        "'before\\n'",
        4,
    ),
    "stdout becomes stderr": ("import os; os.dup2(2, 1); os.write(1, b'elsewhere\\n')", "''", 0),
    "stdout is opened again": ("open('/proc/self/fd/1', 'w').write('again\\n')", "'again\\n'", 0),
    "stdout is made non-blocking": (
        (
            "import os, time\nos.set_blocking(1, False)\nleft = b'x' * 3_000_000\nwhile left:\n"
            " try: left = left[os.write(1, left):]\n except BlockingIOError: time.sleep(0.001)"
        ),
        "'x' * 3_000_000",
        0,
    ),
    "its pipe is made small": (
        "import fcntl, os; fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, 4096); os.write(1, b'x' * 500_000)",
        "'x' * 500_000",
        0,
    ),
    "it kills itself in the middle of a line": (
        "import os; os.write(1, b'half a li'); os.kill(os.getpid(), 9)",
        "'half a li'",
        -9,
    ),
    "it writes to a pipe that is closed": (
        (
            "import os, signal; signal.signal(13, signal.SIG_DFL); r, w = os.pipe(); os.close(r)\n"
            "print('x', flush=True); os.write(w, b'y')"
        ),
        "'x\\n'",
        -13,
    ),
    "a hundred children print at once": (
        (
            "import os\nfor n in range(100):\n if not os.fork(): os.write(1, b'x' * 99 + b'\\n'); os._exit(0)\n"
            "for n in range(100): os.wait()"
        ),
        "('x' * 99 + '\\n') * 100",
        0,
    ),
    "a child keeps the pipe": (
        "import os, time\nos.write(1, b'parent\\n')\nif not os.fork(): os.setsid(); time.sleep(300)",
        "'parent\\n'",
        0,
    ),
}
"""Programs by their source, what they print, and how they end."""

ENDLESS: dict[str, list[str]] = {
    "lines": ["yes"],
    "one line": ["cat", "/dev/zero"],
    "both streams": ["sh", "-c", "yes & yes >&2"],
    "deaf to signals": ["sh", "-c", "trap '' TERM INT HUP; yes"],
    "children that flood": ["sh", "-c", "for n in 1 2 3 4 5 6 7 8; do (yes $n &) ; done; wait; sleep 300"],
    "daemons that flood": [
        "python3",
        "-c",
        (
            "import os, signal\nfor n in range(8):\n if not os.fork():\n  os.setsid()\n  if os.fork(): os._exit(0)\n"
            "  while True: os.write(1, b'x' * 65536)\nsignal.pause()"
        ),
    ],
    "a stopped one": ["sh", "-c", "yes & kill -STOP $!; kill -STOP $$"],
    "escapes": ["python3", "-c", "while True: print('\\x1b[2J\\x1b[6n' * 1000)"],
}


async def read_back(one: Client, execution_id: str) -> bytes:
    """All of its standard output, byte by byte, as the daemon keeps it."""
    found, position = [], 0
    while True:
        portion = await one.request("read_output", execution_id=execution_id, from_seq=position, streams=["stdout"])
        found += [
            base64.b64decode(piece["data"]) if piece.get("encoding") else piece["data"].encode()
            for piece in portion["chunks"]
        ]
        if "outcome" in portion:
            return b"".join(found)
        assert portion["next_seq"] > position
        position = portion["next_seq"]


async def others_are_served(hostile) -> None:
    await trio.to_thread.run_sync(hostile.good.serves)


@pytest.mark.parametrize(
    ("name", "framing"), [*((name, "lines") for name in PRINTED), *((name, "raw") for name in TORN)]
)
async def test_every_byte_is_kept(hostile, name, framing):
    """Whatever is printed is told in order without a hole, counted, and read back as it was."""
    source = PRINTED[name]
    async with connect(hostile.address) as one:
        program = f"import os, sys; sys.stdout.buffer.write({source}); sys.stdout.flush()"
        execution = await one.execute("python3", "-c", program, framing=framing)
        await others_are_served(hostile)
        ended = await execution.completed()
        expected = eval(source)
        assert (ended["exit_code"], ended["stdout_bytes"]) == (0, len(expected))
        read = await read_back(one, execution.id)
        assert hashlib.sha256(read).digest() == hashlib.sha256(expected).digest()


@pytest.mark.parametrize("name", SCRIPTS)
async def test_however_it_writes(hostile, name):
    """Closed, shared, torn or full: what was written is told, and then how it ended."""
    source, expected, code = SCRIPTS[name]
    async with connect(hostile.address) as one:
        execution = await one.execute("python3", "-c", source)
        await others_are_served(hostile)
        ended = await execution.completed()
        assert (execution.stdout, ended["exit_code"]) == (eval(expected), code)


@pytest.mark.parametrize("name", ENDLESS)
@pytest.mark.parametrize("ending", ["KILL", "CANCEL"])
async def test_output_without_end(hostile, name, ending):
    """As long as it is let; then every process of it is gone, and all that it printed is accounted for."""
    async with connect(hostile.address) as one:
        execution = await one.execute(*ENDLESS[name])
        await others_are_served(hostile)
        assert (await execution.control(ending, **({"grace": 0.1} if ending == "CANCEL" else {})))["survivors"] == []
        await execution.completed()
        assert not hostile.daemon.processes(execution.id)


@pytest.mark.parametrize(
    "params",
    [
        pytest.param({"framing": "line"}, id="a notification for each"),
        pytest.param({"max_line_bytes": 4}, id="cut"),
        pytest.param({"policy": "block"}, id="blocking"),
        pytest.param({"stdio": "file"}, id="into a file"),
        pytest.param({"agent": "claude", "stdio": "pipe"}, id="as an agent"),
        pytest.param({"pty": {"cols": 1, "rows": 1}}, id="on a terminal"),
    ],
)
async def test_in_every_manner(hostile, params):
    """Lines that look like events of an agent, of all lengths, with bytes that are no text, however they are wanted."""
    source = (
        "import sys\nfor n in range(3000):\n"
        " sys.stdout.buffer.write(b'{\"type\":\"result\",\"x\":' * (n % 3) + b'\\xff' * (n % 50) + b'\\n')"
    )
    async with connect(hostile.address) as one:
        execution = await one.execute("python3", "-c", source, **params)
        await others_are_served(hostile)
        ended = await execution.completed()
        assert ended["exit_code"] == 0
        assert ended["stdout_bytes"] >= 3000


async def test_a_fork_bomb(hostile):
    """Thirty-two processes that print as fast as they can: all of them end with it."""
    bomb = "import os, signal\nfor n in range(5): os.fork()\nwhile True: os.write(1, b'boom')"
    async with connect(hostile.address) as one:
        execution = await one.execute("python3", "-c", bomb)
        await eventually(lambda: len(hostile.daemon.processes(execution.id)) == 32, "it has exploded")
        await others_are_served(hostile)
        assert (await execution.control("KILL"))["survivors"] == []
        await execution.completed()
        assert not hostile.daemon.processes(execution.id)


async def test_its_leader_is_killed_by_a_stranger(hostile):
    """In the middle of a flood: what was printed is told, the signal is named, and what it had started goes, too."""
    async with connect(hostile.address) as one:
        execution = await one.execute("sh", "-c", "yes child & yes")
        await execution.printed("y\n")
        await others_are_served(hostile)
        os.kill(execution.pid, signal.SIGKILL)
        ended = await execution.completed()
        assert (ended["exit_code"], ended["reason"]) == (-9, "signaled")
