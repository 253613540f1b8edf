"""Who may enter, with the real programs: tokens from the command line, and a daemon that keeps them to itself."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.client import RefusedError, connect
from tests.e2e.daemon_process import Daemon, command_of, environment_of
from tests.external.test_tls import make


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    one = Daemon(tmp_path, log_level="debug")
    yield one
    one.stop()


def ctl(daemon: Daemon, *words: str) -> "subprocess.CompletedProcess[str]":
    """Call `ccexecctl token`."""
    command = [sys.executable, "-m", "ccexecctl", "--state-dir", str(daemon.state_dir), "token", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def printed(daemon: Daemon, *words: str) -> str:
    """What it prints when all goes well."""
    done = ctl(daemon, *words)
    assert done.returncode == 0, done
    return done.stdout.strip()


async def test_the_life_of_a_token(daemon):
    """Made, used, rotated, used again, revoked: each step counts for the next connection."""
    first = printed(daemon, "add", "--name", "ci", "--scope", "execute", "--expires", "1d")
    async with connect(daemon.address, token=first) as one:
        finished = await one.run("echo", "by token")
        assert finished.stdout == "by token\n"
        second = printed(daemon, "rotate", "ci")
        assert await one.closed() == 4401
    async with connect(daemon.address, token=second) as one:
        assert [each["execution_id"] for each in (await one.request("list"))["executions"]] == [finished.id]
        with pytest.raises(RefusedError, match="-32601"):
            await one.request("token_show")
        assert printed(daemon, "revoke", "ci") == "revoked ci"
        assert await one.closed() == 4401
    assert [line.split()[0] for line in printed(daemon, "list").splitlines()] == ["NAME", "default"]
    assert ctl(daemon, "revoke", "ci").returncode == 1


async def test_a_killed_daemon_has_kept_its_tokens(tmp_path):
    """What has been told to somebody is on the disk: no end of the daemon takes it back."""
    one = Daemon(tmp_path)
    token = printed(one, "add", "--name", "ci", "--scope", "observe")
    one.kill()
    two = Daemon(tmp_path)
    try:
        async with connect(two.address, token=token) as client:
            assert (await client.request("list"))["executions"] == []
            with pytest.raises(RefusedError, match="ci may not call execute"):
                await client.request("execute", argv=["true"])
    finally:
        two.stop()


async def test_a_text_is_nowhere_but_where_it_was_printed(daemon):
    """Neither in the daemon's log, at its most talkative, nor on a command line, in an environment or another file."""
    texts = [printed(daemon, "add", "--name", "ci", "--scope", "execute"), printed(daemon, "rotate", "ci")]
    default = printed(daemon, "show")
    async with connect(daemon.address, token=texts[1]) as one:
        execution = await one.execute("cat", stdin="open")
        processes = [daemon.pid, daemon.keeper, *daemon.processes(execution.id)]
        for pid in processes:
            seen = [*command_of(pid), *environment_of(pid)]
            assert not [text for text in [*texts, default] if text in " ".join(seen)]
        await one.request("close_stdin", execution_id=execution.id)
    for path in daemon.state_dir.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [text for text in texts if text.encode() in content], path
            assert default.encode() not in content or path.name == "token"


def test_beyond_loopback_it_does_not_start_without_tls(tmp_path):
    """The exit status and the reason are those of a flag that is wrong; nothing is left."""
    command = [sys.executable, "-m", "ccexecd", "--foreground", "--host", "0.0.0.0", "--port", "0"]
    done = subprocess.run(
        [*command, "--state-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "beyond loopback, without TLS" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_daemon_that_speaks_tls_is_started_as_any_other(tmp_path):
    """`start`, `run` and `restart` see that its port answers, whatever its certificate says."""
    certificate, key = make(tmp_path, "localhost")
    (tmp_path / "ccexecd.toml").write_text(f'certfile = "{certificate}"\nkeyfile = "{key}"\nport = 0\n')
    for words in (["start"], ["run", "--", "true"], ["restart"], ["stop"]):
        command = [sys.executable, "-m", "ccexecctl", "--state-dir", str(tmp_path), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (0, ""), words
