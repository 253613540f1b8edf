"""Every execution passes the gate, and both what was decided and how it ended is on record."""

import base64
import os
import pwd
import shutil
from pathlib import Path

import pytest

from ccexecd.admission import TURNED_AWAY_INTERVAL
from ccexecd.storage.chain import files_in, records_in, verify
from tests.e2e.client import Client, RefusedError
from tests.in_process import Running, running

SH = os.path.realpath(shutil.which("sh") or "")


def recorded(daemon: Running, *kinds: str) -> list[dict]:
    found = [record.fields for file in files_in(daemon.directory / "audit") for record in records_in(file)]
    return [each for each in found if not kinds or each["kind"] in kinds]


async def test_a_decision_and_its_outcome_are_recorded(tmp_path):
    """Who, from where, what, in which directory, with which names of variables; and how it ended."""
    async with running(tmp_path) as daemon:
        async with daemon.client() as client:
            params = {"argv": ["sh", "-c", "exit 3"], "cwd": "/tmp", "env": {"B": "hidden", "A": "x"}, "unset": ["C"]}
            started = await client.request("execute", **params)
            await client.request("wait", execution_id=started["execution_id"])
        decision, outcome = recorded(daemon, "decision", "outcome")
        assert decision["principal"] == f"uid:{os.geteuid()}"
        assert decision["peer"].startswith("127.0.0.1:")
        told = {key: decision[key] for key in ("method", "decision", "executable", "command", "shell", "cwd")}
        assert told == {
            "method": "execute",
            "decision": "allowed",
            "executable": SH,
            "command": "sh -c 'exit 3'",
            "shell": False,
            "cwd": "/tmp",
        }
        assert (decision["environment"], decision["unset"]) == (["A", "B"], ["C"])
        assert outcome["execution_id"] == decision["execution_id"] == started["execution_id"]
        assert (outcome["outcome"], outcome["exit_code"], outcome["pid"]) == ("exited", 3, started["pid"])
        assert b"hidden" not in b"".join(file.read_bytes() for file in files_in(tmp_path / "audit"))
    assert [each["kind"] for each in recorded(daemon)][:2] == ["began", "started"]
    assert recorded(daemon)[-1]["kind"] == "ended"
    assert verify(files_in(tmp_path / "audit")).findings == []


async def test_a_refusal_is_recorded_with_its_reason(tmp_path):
    """By the allow-list, by the policy, and for what is beyond a limit."""
    async with running(tmp_path, allowed_commands=["echo"], max_sessions=1) as daemon, daemon.client() as client:
        with pytest.raises(RefusedError):
            await client.request("execute", command="echo a; rm --password=hidden x")
        with pytest.raises(RefusedError):
            await client.request("execute", argv=["rm", "x"])
        async with daemon.client() as second:
            with pytest.raises(RefusedError):
                await second.request("execute", argv=["echo"])
        first, other, beyond = recorded(daemon, "decision")
        assert {each["decision"] for each in (first, other, beyond)} == {"refused"}
        assert first["command"] == "echo a; rm --password=[redacted] x"
        assert "';' at character 7" in first["reason"]
        assert other["reason"].startswith("command not allowed: 'rm' is not an allowed command")
        assert beyond["reason"].startswith("session limit reached")


async def test_what_could_not_be_started_has_an_outcome(tmp_path):
    """It was admitted, and came to nothing."""
    async with running(tmp_path) as daemon:
        with pytest.raises(RefusedError):
            await daemon.ask("execute", argv=["/nowhere"])
        decision, outcome = recorded(daemon, "decision", "outcome")
        assert (decision["executable"], decision["peer"]) == ("/nowhere", f"control socket, pid {os.getpid()}")
        assert (outcome["outcome"], outcome["exit_code"]) == ("spawn_failed", None)


async def test_what_an_operator_does_is_recorded(tmp_path):
    """To executions and to the daemon."""
    async with running(tmp_path) as daemon:
        async with daemon.operator() as operator:
            started = await operator.request("execute", argv=["sleep", "60"])
            await operator.request("control", type="KILL", execution_id=started["execution_id"])
            with pytest.raises(RefusedError):
                await operator.request("control", type="KILL", execution_id=started["execution_id"])
            await operator.request("reload")
        done, refused, reload = recorded(daemon, "call")
        assert (done["method"], done["type"], done["decision"]) == ("control", "KILL", "allowed")
        assert done["execution_id"] == started["execution_id"]
        assert (refused["decision"], refused["principal"]) == ("refused", f"uid:{os.geteuid()}")
        assert (reload["method"], reload["decision"]) == ("reload", "allowed")


async def test_a_change_of_a_token_is_recorded(tmp_path):
    """By its name, and without a letter of its text."""
    async with running(tmp_path) as daemon:
        token = (await daemon.ask("token_add", name="ci", scopes=["observe"], lifetime=60.0))["token"]
        await daemon.ask("token_revoke", name="ci")
        added, revoked = recorded(daemon, "call")
        assert [(each["method"], each["name"], each["decision"]) for each in (added, revoked)] == [
            ("token_add", "ci", "allowed"),
            ("token_revoke", "ci", "allowed"),
        ]
        assert token.encode() not in b"".join(file.read_bytes() for file in files_in(tmp_path / "audit"))


async def test_nothing_runs_that_cannot_be_recorded_where_that_is_required(tmp_path):
    """The error says so; what runs goes on, and it works again when the disk does."""
    async with running(tmp_path, audit_required=True) as daemon, daemon.client() as client:
        execution = await client.request("execute", argv=["sleep", "60"])
        directory = tmp_path / "audit"
        broken = Broken(daemon)
        with pytest.raises(RefusedError) as refused:
            await client.request("execute", argv=["true"])
        assert refused.value.code == -32013
        assert "audit_required" in str(refused.value)
        status = await daemon.ask("status")
        assert "No space left" in status["audit"]["problem"]
        assert status["executions"]["live"] == 1
        broken.mend()
        await client.request("control", type="KILL", execution_id=execution["execution_id"])
        assert (await client.request("execute", argv=["true"]))["status"] == "started"
        assert recorded(daemon, "lost")
        assert (await daemon.ask("status"))["audit"]["directory"] == str(directory)


async def test_where_it_is_not_required_the_work_goes_on(tmp_path):
    """And the problem is told."""
    async with running(tmp_path) as daemon, daemon.client() as client:
        broken = Broken(daemon)
        assert (await client.request("execute", argv=["true"]))["status"] == "started"
        assert (await daemon.ask("status"))["audit"]["problem"] is not None
        health = await daemon.ask("health")
        assert (health["status"], health["problems"]) == ("degraded", ["the audit is not kept"])
        broken.mend()
        await client.request("execute", argv=["true"])
        assert (await daemon.ask("health"))["status"] == "healthy"


async def written(client: Client, execution_id: str, stream: str) -> str:
    """What an execution has written to one of its streams; of what came from a terminal, the bytes."""
    answer = await client.request("read_output", execution_id=execution_id, streams=[stream])
    pieces = [(chunk["data"], chunk.get("encoding")) for chunk in answer["chunks"]]
    return "".join(base64.b64decode(data).decode() if encoding else data for data, encoding in pieces)


def write(file: Path, text: str) -> None:
    file.write_text(text)


class Broken:
    """An audit that cannot write, until it is mended."""

    def __init__(self, daemon: Running) -> None:
        self._audit, self._errors = daemon.daemon._audit, daemon.errors
        self._append = self._audit._append
        self._audit._append = self._fail

    def _fail(self, _line: bytes) -> None:
        raise OSError(28, "No space left on device")

    def mend(self) -> None:
        """Write again; that it could not was logged, and is forgiven."""
        self._audit._append = self._append
        assert any("cannot write the audit" in error for error in self._errors)
        self._errors.clear()


async def test_who_is_not_let_in_is_recorded_but_fills_nothing(tmp_path, monkeypatch):
    """The first one, and after a minute how many since."""
    now = 0.0
    monkeypatch.setattr("ccexecd.admission.time.monotonic", lambda: now)
    async with running(tmp_path) as daemon:
        gate = daemon.daemon._engine.gate
        for _ in range(100):
            gate.turned_away("403", "the host 'evil' is not served here", "127.0.0.1:1")
        gate.turned_away("401", "no token", "127.0.0.1:2")
        now = TURNED_AWAY_INTERVAL + 1
        gate.turned_away("403", "again", "127.0.0.1:3")
        first, other, again = recorded(daemon, "entry")
        assert (first["door"], first["peer"], other["door"]) == ("403", "127.0.0.1:1", "401")
        assert (again["reason"], again["others"]) == ("again", 99)


async def test_a_web_page_that_is_refused_is_recorded(tmp_path):
    """At the door, before anybody knows who it is."""
    async with running(tmp_path) as daemon:
        stream = await daemon.dial()
        await stream.send_all(b"GET /ws HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil\r\n\r\n")
        assert b" 403 " in await stream.receive_some(4096)
        await stream.aclose()
        (entry,) = recorded(daemon, "entry")
        assert (entry["door"], entry["decision"]) == ("foreign_origin", "refused")
        assert entry["peer"].startswith("127.")


async def test_a_policy_is_read_again_by_a_reload(tmp_path):
    """With the configuration, whole or not at all."""
    policy = tmp_path / "policy.toml"
    write(policy, 'default = "deny"\n[[rule]]\naction = "allow"\nprogram = ["echo"]\n')
    async with running(tmp_path, policy_file=str(policy)) as daemon, daemon.client() as client:
        assert await client.request("execute", command="echo --a=b")
        with pytest.raises(RefusedError, match="default is deny"):
            await client.request("execute", command="true")
        write(policy, 'default = "allow"\n')
        assert (await daemon.ask("reload"))["changed"] == ["policy_file"]
        assert await client.request("execute", command="true && true")
        write(policy, "default = 1\n")
        with pytest.raises(RefusedError) as refused:
            await daemon.ask("reload")
        assert refused.value.facts[0]["path"] == "default"
        assert await client.request("execute", command="true && true")
        assert (await daemon.ask("policy"))["policy"] == {"default": "allow", "rules": []}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("pty", [None, {"cols": 80, "rows": 24}], ids=["pipes", "terminal"])
async def test_a_rule_may_have_it_run_as_somebody_else(tmp_path, pty):
    """With their groups and their home, whatever the client says; for good, and on record."""
    policy = tmp_path / "policy.toml"
    write(policy, 'default = "allow"\n[[rule]]\naction = "allow"\nprogram = ["sh"]\nrun_as = "nobody"\n')
    nobody = pwd.getpwnam("nobody")
    script = (
        "id -ru; id -u; id -G; echo $HOME $USER $LOGNAME; echo again > /dev/stdout; grep CapEff /proc/self/status;"
        + ("echo tty > /dev/tty; tty -s && echo shown > $(tty)" if pty else "")
    )
    async with running(tmp_path, policy_file=str(policy)) as daemon, daemon.client() as client:
        asked = {"argv": ["sh", "-c", script], "env": {"HOME": "/root"}, "unset": ["USER"], "limits": {"nice": 5}}
        started = await client.request("execute", **asked, **({"pty": pty} if pty else {}))
        await client.request("wait", execution_id=started["execution_id"])
        told = (await written(client, started["execution_id"], "stdout")).split()
        groups = [str(group) for group in os.getgrouplist("nobody", nobody.pw_gid)]
        names = [nobody.pw_dir, "nobody", "nobody"]
        expected = [str(nobody.pw_uid)] * 2 + groups + names + ["again", "CapEff:", "0000000000000000"]
        assert told == expected + (["tty", "shown"] if pty else [])
        assert await written(client, started["execution_id"], "stderr") == ""
        (decision,) = recorded(daemon, "decision")
        assert decision["run_as"] == "nobody"
        other = await client.request("execute", argv=["id", "-u"])
        await client.request("wait", execution_id=other["execution_id"])
        assert await written(client, other["execution_id"], "stdout") == "0\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_a_user_who_has_gone_runs_nothing(tmp_path, monkeypatch):
    """Since the policy was read; it is refused, and nothing runs as anybody else instead."""
    policy = tmp_path / "policy.toml"
    write(policy, 'default = "allow"\n[[rule]]\naction = "allow"\nprogram = ["id"]\nrun_as = "nobody"\n')
    async with running(tmp_path, policy_file=str(policy)) as daemon, daemon.client() as client:
        monkeypatch.setattr("ccexecd.process.leader.pwd.getpwnam", {}.__getitem__)
        with pytest.raises(RefusedError, match="there is no such user"):
            await client.request("execute", argv=["id"])


async def test_a_verdict_can_be_asked_for(tmp_path):
    """By an operator, of words and of strings; nothing is run."""
    async with running(tmp_path, allowed_commands=["echo"]) as daemon:
        told = await daemon.ask("policy", argv=["echo", "x"], env=["A"], cwd="/tmp")
        assert (told["decision"], told["environment"], told["cwd"]) == ("allowed", ["A"], "/tmp")
        assert (await daemon.ask("policy", command="echo; x"))["decision"] == "refused"
        shown = await daemon.ask("policy")
        assert (shown["allowed_commands"], shown["policy"]) == (["echo"], None)
        with pytest.raises(RefusedError):
            await daemon.ask("policy", argv=["x"], command="x")
        assert recorded(daemon, "decision") == []
