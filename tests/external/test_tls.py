"""TLS around the port: the same door inside, a certificate that is read again, and nothing that strangers can break."""

import ast
import json
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from ccexecd.external import door, tls
from ccexecd.external.tls import CertificateError, load
from tests.e2e.client import PATIENCE, RefusedError
from tests.e2e.daemon_process import eventually
from tests.in_process import Running, descriptors, running

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")


def make(directory: Path, name: str) -> tuple[Path, Path]:
    """A certificate for localhost that vouches for itself, and its key."""
    certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return make(tmp_path, "one")


def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


@asynccontextmanager
async def secured(tmp_path: Path, files: tuple[Path, Path], **config: Any) -> AsyncIterator[Running]:
    state = tmp_path / "state"
    state.mkdir()
    async with running(state, certfile=str(files[0]), keyfile=str(files[1]), **config) as daemon:
        yield daemon


async def dial(daemon: Running, context: ssl.SSLContext) -> trio.SSLStream:
    plain = await daemon.dial()
    stream = trio.SSLStream(plain, context, server_hostname="localhost", https_compatible=True)
    try:
        with trio.fail_after(PATIENCE):
            await stream.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(plain)
        raise
    return stream


async def exchange(stream: trio.abc.Stream, data: bytes) -> bytes:
    async with stream:
        await stream.send_all(data)
        received = b""
        with trio.fail_after(PATIENCE):
            while piece := await stream.receive_some():
                received += piece
        return received


def post(argv: list[str], *lines: bytes) -> bytes:
    body = json.dumps({"argv": argv}).encode()
    head = [
        b"POST /execute HTTP/1.1",
        b"Host: localhost",
        b"Connection: close",
        b"Content-Length: %d" % len(body),
        *lines,
    ]
    return b"\r\n".join([*head, b"", body])


class TestInside:
    """What is inside is what is there without TLS."""

    async def test_a_websocket(self, tmp_path, files):
        """A command's output comes whole and in order, the user is recognised by the kernel, and close is a close."""
        async with secured(tmp_path, files) as daemon, daemon.client(ssl=trusting(files[0])) as one:
            execution = await one.run("seq", "100000")
            assert execution.stdout == "".join(f"{number}\n" for number in range(1, 100_001))
            status = await one.request("status", execution_id=execution.id)
            assert status["principal"] == f"uid:{os.geteuid()}"
            assert (await daemon.ask("status"))["url"].startswith("wss://127.0.0.1:")

    async def test_input(self, tmp_path, files):
        """A megabyte goes the other way."""
        async with secured(tmp_path, files) as daemon, daemon.client(ssl=trusting(files[0])) as one:
            execution = await one.execute("wc", "-c", stdin="open")
            for _ in range(16):
                await one.request("write_stdin", execution_id=execution.id, data="x" * 65536)
            await one.request("close_stdin", execution_id=execution.id)
            await execution.completed()
            assert execution.stdout.strip() == "1048576"

    async def test_a_token(self, tmp_path, files):
        """A wrong one is refused, a right one is its principal."""
        async with secured(tmp_path, files) as daemon:
            made = await daemon.ask("token_add", name="ci", scopes=["observe"])
            async with daemon.client(ssl=trusting(files[0]), token=made["token"]) as one:
                with pytest.raises(RefusedError, match="ci may not call execute"):
                    await one.request("execute", argv=["true"])
            wrong = await dial(daemon, trusting(files[0]))
            assert (await exchange(wrong, post(["true"], b"Authorization: Bearer wrong"))).startswith(b"HTTP/1.1 401")

    async def test_an_answer_over_http_arrives_whole(self, tmp_path, files):
        """With everything that it says, and TLS's own goodbye behind it: nobody can have cut it."""
        async with secured(tmp_path, files) as daemon:
            stream = await dial(daemon, trusting(files[0]))
            stream._https_compatible = False  # an end without goodbye would raise now
            answer = await exchange(stream, post(["seq", "50000"]))
            assert answer.endswith(b"0\r\n\r\n")
            assert b"\\n49999\\n50000\\n" in answer

    async def test_a_client_that_is_cut_comes_back(self, tmp_path, files):
        """A reset is a cut, also inside of TLS: the session stays."""
        async with secured(tmp_path, files) as daemon:
            async with daemon.client(ssl=trusting(files[0])) as one:
                execution = await one.execute("cat", stdin="open")
                claim = {name: one.greeting[name] for name in ("session_id", "resume_token")}
                await one.cut()
            session = daemon.daemon._engine.sessions.get(claim["session_id"])
            await eventually(lambda: session.is_cut, "it has been noticed")
            async with daemon.client(ssl=trusting(files[0])) as two:
                resumed = await two.request("resume_session", **claim)
                assert [each["execution_id"] for each in resumed["executions"]] == [execution.id]
                await two.request("control", execution_id=execution.id, type="KILL")

    async def test_a_slow_reader_costs_nobody_else(self, tmp_path, files):
        """One that does not read at all waits in its own buffers; the next one is served."""
        async with secured(tmp_path, files) as daemon:
            slow = await dial(daemon, trusting(files[0]))
            await slow.send_all(post(["seq", "1000000"], b"Accept: text/event-stream"))
            async with daemon.client(ssl=trusting(files[0])) as one:
                assert (await one.run("echo", "fine")).stdout == "fine\n"
            await trio.aclose_forcefully(slow)
            await eventually(lambda: not daemon.daemon._engine.live, "what ran for it is cancelled")


def sockets() -> list[str]:
    """Those that this process has open; of files, a daemon that has just come up opens some more."""
    return [each for each in descriptors().values() if each.startswith("socket:")]


class TestStrangers:
    """What comes before and instead of a handshake."""

    @pytest.mark.parametrize(
        "data", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01\x00", b"\0" * 5000]
    )
    async def test_what_is_no_tls_is_dropped(self, tmp_path, files, data):
        """Plain text, half a record and garbage end that connection; the next one is served, nothing is left open."""
        async with secured(tmp_path, files) as daemon:
            before = len(sockets())
            async with await daemon.dial() as stream:
                if data:
                    await stream.send_all(data)
                await stream.send_eof()
                with trio.fail_after(PATIENCE):
                    try:
                        while await stream.receive_some():
                            pass
                    except trio.BrokenResourceError:
                        pass
            async with daemon.client(ssl=trusting(files[0])) as one:
                assert (await one.request("list"))["executions"] == []
            await eventually(lambda: len(sockets()) <= before, "its sockets are closed")

    async def test_a_handshake_has_its_time(self, tmp_path, files, monkeypatch):
        """Who connects and says nothing is gone after a while."""
        monkeypatch.setattr(tls, "HANDSHAKE_TIMEOUT", 0.1)
        async with secured(tmp_path, files) as daemon, await daemon.dial() as silent:
            with trio.fail_after(PATIENCE):
                assert await silent.receive_some() == b""

    async def test_there_are_not_any_number_of_them(self, tmp_path, files):
        """Handshakes that go on for ever take no more places than connections may."""
        async with secured(tmp_path, files, max_connections=1) as daemon:
            ours = daemon.daemon._door
            ours._over_tls = 1 + ours._site.limits.turned_away
            async with await daemon.dial() as one:
                with trio.fail_after(PATIENCE):
                    assert await one.receive_some() == b""
            ours._over_tls = 0

    async def test_who_comes_when_descriptors_have_run_out_is_dropped(self, tmp_path, files, no_more_descriptors):
        """The daemon lives, and serves others when there are some again."""
        async with secured(tmp_path, files) as daemon:
            plain = await daemon.dial()
            await eventually(lambda: daemon.daemon._door._over_tls == 1, "it is accepted")
            stream = trio.SSLStream(plain, trusting(files[0]), server_hostname="localhost", https_compatible=True)
            with no_more_descriptors(), trio.fail_after(PATIENCE):
                await stream.do_handshake()
                with suppress(trio.BrokenResourceError):
                    assert await stream.receive_some() == b""
            await trio.aclose_forcefully(plain)
            assert b'"exit_code":0' in await exchange(await dial(daemon, trusting(files[0])), post(["true"]))

    async def test_old_versions_are_not_spoken(self, tmp_path, files):
        """TLS 1.2 at least."""
        context = trusting(files[0])
        with pytest.warns(DeprecationWarning, match="deprecated"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        async with secured(tmp_path, files) as daemon:
            with pytest.raises(trio.BrokenResourceError):
                await dial(daemon, context)


class TestReload:
    """A certificate is replaced while the daemon runs."""

    async def test_the_same_names_with_other_content(self, tmp_path, files):
        """New connections see the new one; those that are open go on."""
        async with secured(tmp_path, files) as daemon, daemon.client(ssl=trusting(files[0])) as old:
            for mine, renewed in zip(files, make(tmp_path, "two"), strict=True):
                shutil.copy(renewed, mine)
            with pytest.raises(trio.BrokenResourceError):
                await dial(daemon, trusting(files[0]))
            assert (await daemon.ask("reload"))["changed"] == ["certfile"]
            assert (await daemon.ask("reload"))["changed"] == []
            async with daemon.client(ssl=trusting(files[0])) as new:
                assert (await new.run("echo", "new")).stdout == "new\n"
            assert (await old.run("echo", "old")).stdout == "old\n"

    async def test_one_that_cannot_be_used_changes_nothing(self, tmp_path, files):
        """The operator learns which key and why; the old one stays in force."""
        async with secured(tmp_path, files) as daemon:
            before = trusting(files[0])
            files[1].write_text("no key")
            with pytest.raises(RefusedError) as refused:
                await daemon.ask("reload")
            assert refused.value.code == -32111
            assert refused.value.facts[0]["path"] == "certfile"
            assert str(files[0]) in refused.value.message
            async with daemon.client(ssl=before) as one:
                assert (await one.request("list"))["executions"] == []


class TestLoad:
    """Files that will not do."""

    def test_none_at_all(self):
        """Is plain text."""
        assert load(None, None) is None

    def test_both_in_one_file(self, tmp_path, files):
        """The key may be beside its certificate."""
        both = tmp_path / "both.pem"
        both.write_text(files[0].read_text() + files[1].read_text())
        assert load(str(both), None) is not None

    @pytest.mark.parametrize(
        ("choose", "reason"),
        [
            (lambda one, _: (None, one[1]), "keyfile is set without certfile"),
            (
                lambda one, _: ("/nonexistent.crt", one[1]),
                "/nonexistent.crt with the key .*: No such file or directory",
            ),
            (lambda one, other: (one[0], other[1]), "cannot use the certificate .*one.crt with the key .*two.key"),
            (lambda one, _: (one[1], one[1]), "cannot use the certificate"),
        ],
        ids=["a key alone", "missing", "another's key", "no certificate"],
    )
    def test_what_will_not_do(self, tmp_path, files, choose: Callable[..., Any], reason: str):
        """Is told with the file and the reason."""
        certificate, key = choose(files, make(tmp_path, "two"))
        with pytest.raises(CertificateError, match=reason):
            load(certificate and str(certificate), str(key))

    def test_an_encrypted_key(self, tmp_path, files):
        """Nobody is asked for a password on the terminal."""
        locked = tmp_path / "locked.key"
        words = ["openssl", "ec", "-in", str(files[1]), "-out", str(locked), "-aes128", "-passout", "pass:secret"]
        subprocess.run(words, check=True, capture_output=True)
        with pytest.raises(CertificateError, match="the key is encrypted"):
            load(str(files[0]), str(locked))

    def test_nothing_is_imported_without_a_certificate(self):
        """What nobody needs takes no memory: `ssl` is there only as far as Trio asks for it."""
        ours = [Path(tls.__file__).parent / f"{name}.py" for name in ("tls", "door", "http", "listener")]
        asking = [
            node
            for path in ours
            for node in ast.parse(
                path.read_text()
            ).body  # what is imported within a function or a condition is not here
            if isinstance(node, ast.Import) and "ssl" in {alias.name for alias in node.names}
        ]
        assert not asking


class TestBeyondLoopback:
    """Who listens where others can be is to say what protects the tokens."""

    async def test_a_name_is_judged_by_what_it_stands_for(self, tmp_path, monkeypatch):
        """With the reason, and what can be done; nothing is left of the attempt."""
        opened = door.open_listeners
        monkeypatch.setattr(door, "open_listeners", lambda _host, port: opened("0.0.0.0", port))
        with pytest.raises((BaseExceptionGroup, OSError)) as failed:
            async with running(tmp_path, host="build.example"):
                pass
        error: BaseException = failed.value
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        assert "0.0.0.0:" in str(error)
        assert all(word in str(error) for word in ("without TLS", "certfile", "allow_plaintext", "127.0.0.1"))
        assert not (tmp_path / "control.sock").exists()

    async def test_a_socket_of_systemd_is_judged_as_well(self, tmp_path):
        """Whoever has opened it: the address counts."""
        with socket.create_server(("0.0.0.0", 0)) as listening:
            with pytest.raises((BaseExceptionGroup, OSError)) as failed:
                async with running(tmp_path, listen_fds={"connection": [os.dup(listening.fileno())]}):
                    pass
            assert "beyond loopback" in repr(failed.value)

    async def test_with_tls_it_is_served(self, tmp_path, files):
        """The token decides then."""
        async with secured(tmp_path, files, host="0.0.0.0") as daemon:
            port = daemon.address[1]
            async with daemon.client(ssl=trusting(files[0])) as one:
                assert (await one.request("list"))["executions"] == []
            assert (await daemon.ask("status"))["url"] == f"wss://0.0.0.0:{port}/ws/mcp"

    async def test_plain_text_can_be_asked_for(self, tmp_path):
        """Where a proxy in front of it speaks TLS, or a container's network is its own."""
        async with running(tmp_path, host="0.0.0.0", allow_plaintext=True) as daemon, daemon.client() as one:
            assert (await one.request("list"))["executions"] == []

    async def test_a_reload_cannot_take_the_protection_away(self, tmp_path, files):
        """The old configuration stays in force."""
        (tmp_path / "state").mkdir()
        file = tmp_path / "state" / "ccexecd.toml"
        file.write_text(f'certfile = "{files[0]}"\nkeyfile = "{files[1]}"\n')
        async with running(tmp_path / "state", host="0.0.0.0") as daemon:
            file.write_text("")
            with pytest.raises(RefusedError, match="beyond loopback, without TLS"):
                await daemon.ask("reload")
            async with daemon.client(ssl=trusting(files[0])) as one:
                assert (await one.request("list"))["executions"] == []
