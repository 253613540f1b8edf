"""Hooks of a daemon: what is done at the events of executions, and that none of it holds anything up."""

import gc
import json
import os
import sys
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from ccexecd import records
from tests.e2e.client import RefusedError, refused
from tests.in_process import Running, children, running

PATIENCE = 20.0
SHIPPED = Path(__file__).parent.parent.parent / "contrib" / "hooks"


def hook(name: str, event: str, script: str, **keys: Any) -> str:
    """A hook for executions that bear its name as the label `hook`; a script of the shell."""
    given = {"name": name, "events": event.split(), "run": ["/bin/sh", "-c", script], **keys}
    lines = [f"{key} = {json.dumps(value)}" for key, value in given.items()]
    return "\n".join(["[[hook]]", *lines, f'labels = {{ hook = "{name}" }}', ""])


async def wait_for(condition: Callable[[], Any], what: str) -> Any:
    with trio.move_on_after(PATIENCE):
        while not (met := condition()):
            await trio.sleep(0.005)
        return met
    raise AssertionError(f"in vain: waited until {what}")


def documents(file: Path) -> list[dict[str, Any]]:
    """What a hook that keeps what it is told has kept: one document a line, as far as it is written."""
    whole, _, _ = file.read_text().rpartition("\n") if file.exists() else ("", "", "")
    return [json.loads(line) for line in whole.splitlines()]


def recorded(one: Running, kind: str) -> list[dict[str, Any]]:
    """The records of one kind in the audit."""
    lines = [line for file in sorted((one.directory / "audit").iterdir()) for line in file.read_bytes().splitlines()]
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Running]:
    """A daemon with many hooks, each for what bears its name."""
    keep = f"cat >>{tmp_path}/$CCEXEC_HOOK_EVENT; echo >>{tmp_path}/$CCEXEC_HOOK_EVENT"
    text = "".join(
        [
            hook(
                "change",
                "pre_execute",
                """echo '{"environment": {"A": "2"}, "unset": ["B"], "wrap": ["env", "W=3"]}'""",
            ),
            hook("refuse", "pre_execute", """echo '{"decision": "refuse", "reason": "not on a Sunday"}'"""),
            hook("broken", "pre_execute", "echo no JSON"),
            hook("needed", "pre_execute", "exit 3", required=True),
            hook("hung", "pre_execute", "sleep 1000 & setsid sleep 1000 & sleep 1000", timeout=0.2),
            hook("slow", "pre_execute", "sleep 1000 & sleep 1000"),
            hook("warner", "pre_execute", """echo '{"warning": "old version"}'"""),
            hook("environment", "pre_execute", keep, pass_environment=["TOLD", "PATH", "GONE"]),
            hook("kept", "on_output on_error post_execute on_stall", keep, batch_seconds=0.05),
            hook("late", "on_output", f"{keep}; sleep 0.02", batch_seconds=0.01, batch_bytes=1024),
            hook("deaf", "on_output post_execute", "exit 1", batch_seconds=0.01),
            hook("endless", "post_execute", "sleep 1000"),
        ]
    )
    file = tmp_path / "hooks.toml"
    file.write_text(text)
    file.chmod(0o600)
    async with running(tmp_path, hooks_file=str(file), unset_environment=["GONE"]) as one:
        yield one


class TestBefore:
    """`pre_execute`: what it may do, and what its failure means."""

    async def test_a_command_is_changed(self, daemon):
        """Its environment and its words; `status` and the audit have what is really run."""
        async with daemon.client() as one:
            script = "echo $A $B $W"
            done = await one.run(command=script, env={"A": "1", "B": "1"}, labels={"hook": "change"})
            assert done.stdout == "2 3\n"
            told = await one.request("status", execution_id=done.id)
            assert told["argv"][:2] == ["env", "W=3"]
        first, second = recorded(daemon, "decision")
        assert (first["decision"], first["command"]) == ("allowed", script)
        assert (second["decision"], second["hooks"]) == ("changed", ["change"])
        assert second["execution_id"] == first["execution_id"] == done.id
        assert second["command"].startswith("env W=3 ")
        assert second["environment"] == ["A"]

    async def test_a_command_is_refused(self, daemon):
        """With the hook's reason; it is on record, and nothing has run. Others are not asked about."""
        async with daemon.client() as one:
            error = await refused(
                one, "execute", argv=["touch", str(daemon.directory / "x")], labels={"hook": "refuse"}
            )
            assert error.code == -32002
            assert "hook 'refuse' refuses it: not on a Sunday" in str(error)
            assert (await one.run("true")).notifications[-1]["params"]["exit_code"] == 0
        assert not (daemon.directory / "x").exists()
        decisions = [(each["decision"], each["reason"]) for each in recorded(daemon, "decision")]
        assert decisions[1] == ("refused", "hook 'refuse' refuses it: not on a Sunday")
        assert recorded(daemon, "outcome")[0]["outcome"] == "spawn_failed"

    @pytest.mark.parametrize(
        ("name", "reason", "message"),
        [
            ("broken", "answer", "hook 'broken' what it wrote to its standard output is not JSON"),
            ("hung", "timeout", "hook 'hung' took longer than 0.2 s, and was ended"),
            ("warner", "said", "old version"),
        ],
    )
    async def test_a_failure_is_a_warning(self, daemon, name, reason, message):
        """Of that execution, which runs. Of a hook that hangs, all of its tree is ended."""
        before = set(children())
        async with daemon.client() as one:
            done = await one.run("echo", "x", labels={"hook": name})
        assert done.stdout == "x\n"
        assert done.sequence() == ["hook.warning", "process.started", "process.output", "process.completed"]
        warning = done.notifications[0]["params"]
        assert {key: warning[key] for key in ("hook", "event", "reason", "message")} == {
            "hook": name,
            "event": "pre_execute",
            "reason": reason,
            "message": message,
        }
        assert set(children()) == before

    async def test_the_failure_of_a_required_one_refuses(self, daemon):
        """As if it had refused."""
        async with daemon.client() as one:
            error = await refused(one, "execute", argv=["true"], labels={"hook": "needed"})
        assert error.code == -32002
        assert str(error).endswith("hook 'needed' ended with exit code 3; it is required")

    async def test_it_is_told_only_values_that_it_is_given(self, daemon):
        """Those of `pass_environment`, as the command would get them; of all others the names."""
        async with daemon.client() as one:
            await one.run("true", env={"TOLD": "1", "SECRET": "s3cr3t", "GONE": "x"}, labels={"hook": "environment"})
        text = (daemon.directory / "pre_execute").read_text()
        told = json.loads(text)
        assert told["environment"] == {"TOLD": "1", "PATH": os.environ["PATH"]}
        assert told["execution"]["environment_names"] == ["GONE", "SECRET", "TOLD"]
        assert (told["version"], told["event"], told["hook"]) == (1, "pre_execute", "environment")
        assert "s3cr3t" not in text

    async def test_a_cancel_does_not_wait_for_it(self, daemon):
        """The hook is ended, the command never starts, and whoever asked for it is told."""
        before = set(children())
        async with daemon.client() as one:
            number = await one.ask("execute", argv=["true"], labels={"hook": "slow"})
            cancelled = await one.request("control", type="CANCEL")
            assert cancelled["status"] == "cancelled"
            with pytest.raises(RefusedError, match="was ended"):
                await one.answer(number)
            told = await one.request("status", execution_id=cancelled["execution_id"])
            assert (told["reason"], told["pid"], told["started_at"]) == ("cancelled", None, None)
            assert set(children()) == before
            assert (await one.run("true")).notifications[-1]["params"]["exit_code"] == 0

    async def test_a_client_that_leaves_ends_it(self, daemon):
        """The session's end is the execution's, and so the hook's."""
        before = set(children())
        async with daemon.client() as one:
            await one.ask("execute", argv=["true"], labels={"hook": "slow"})
            await wait_for(lambda: daemon.daemon._hooks._calls.running, "the hook runs")
        await wait_for(lambda: not daemon.daemon._engine.live, "it has ended")
        assert set(children()) == before

    async def test_a_pause_waits_for_the_start(self, daemon):
        """It is decided in its order when there is something to pause."""
        async with daemon.client() as one:
            number = await one.ask("execute", argv=["sleep", "1000"], labels={"hook": "hung"})
            assert (await one.request("control", type="PAUSE"))["status"] == "paused"
            assert (await one.answer(number))["status"] == "started"
            await one.request("control", type="KILL")

    async def test_a_stop_does_not_wait_for_it(self, daemon):
        """What has not started yet is ended like what runs, and `running` sees that nothing is left."""
        async with daemon.client() as one:
            await one.ask("execute", argv=["true"], labels={"hook": "slow"})
            await wait_for(lambda: daemon.daemon._hooks._calls.running, "the hook runs")
            answer = await daemon.daemon.stop(0.0, 0.0)
        assert [each["reason"] for each in answer.result["ended"]] == ["shutdown"]

    async def test_a_stop_that_drains_lets_it_answer(self, daemon):
        """The command starts then, and finishes."""
        async with daemon.client() as one:
            number = await one.ask("execute", argv=["echo", "late"], labels={"hook": "hung"})
            await wait_for(lambda: daemon.daemon._hooks._calls.running, "the hook runs")
            answer = await daemon.daemon.stop(20.0, 0.0)
            assert answer.result["ended"] == []
            assert (await one.answer(number))["status"] == "started"
            assert (await one.notification("process.completed"))["exit_code"] == 0

    async def test_one_that_waits_is_asked_about_at_its_turn(self, tmp_path):
        """Not before; a refusal then is told as its end."""
        file = tmp_path / "hooks.toml"
        answer = f"""echo x >>{tmp_path}/asked; echo '{{"decision": "refuse"}}'"""
        file.write_text(hook("refuse", "pre_execute", answer))
        file.chmod(0o600)
        async with running(tmp_path, hooks_file=str(file), max_running=1) as daemon, daemon.client() as one:
            first = await one.execute("sleep", "1000")
            second = await one.execute("true", labels={"hook": "refuse"})
            assert second.reply["status"] == "queued"
            assert not (tmp_path / "asked").exists()
            await first.control("KILL")
            assert (await second.completed())["reason"] == "spawn_failed"
            told = await one.request("status", execution_id=second.id)
            assert told["error"] == "command not allowed: hook 'refuse' refuses it: it gives no reason"

    async def test_the_shipped_ones_work(self, tmp_path):
        """A virtual environment is activated for commands, and what is not installed refuses them."""
        (tmp_path / "venv" / "bin").mkdir(parents=True)
        (tmp_path / "venv" / "bin" / "python").symlink_to("/bin/echo")
        file = tmp_path / "hooks.toml"
        venv = [sys.executable, str(SHIPPED / "activate_venv.py"), str(tmp_path / "venv")]
        need = [sys.executable, str(SHIPPED / "require_programs.py"), "python"]
        path = ["PATH"]
        events = "pre_execute"
        file.write_text(
            hook("venv", events, "", run=venv, pass_environment=path, required=True)
            + hook("venv2", events, "", run=[*need, "no-such-program"], pass_environment=path, required=True)
            + hook("venv3", events, "", run=need, pass_environment=path, required=True).replace('"venv3" }', '"venv" }')
        )
        file.chmod(0o600)
        async with running(tmp_path, hooks_file=str(file)) as one, one.client() as client:
            done = await client.run("python", "from", "there", env={"PATH": "/usr/bin"}, labels={"hook": "venv"})
            assert done.stdout == "from there\n"
            error = await refused(client, "execute", argv=["true"], labels={"hook": "venv2"})
            assert "not installed: no-such-program" in str(error)


class TestDelivery:
    """The other events: told while an execution runs, and after it."""

    async def test_output_comes_in_batches_and_the_end_after_it(self, daemon):
        """All of it, in order, in far fewer calls than lines; an end that is no success is two events."""
        async with daemon.client() as one:
            done = await one.run(
                command="for i in $(seq 300); do echo line $i; done; echo x >&2; exit 4", labels={"hook": "kept"}
            )
        ended = await wait_for(lambda: documents(daemon.directory / "post_execute"), "it was told of the end")
        batches = [each["output"] for each in documents(daemon.directory / "on_output")]
        text = "".join(each["stdout"]["data"] for each in batches if "stdout" in each)
        assert text == done.stdout
        assert "".join(each["stderr"]["data"] for each in batches if "stderr" in each) == "x\n"
        assert len(batches) < 150
        (failed,) = documents(daemon.directory / "on_error")
        assert failed["outcome"]["exit_code"] == ended[0]["outcome"]["exit_code"] == 4
        assert ended[0]["execution"]["execution_id"] == done.id

    async def test_a_silence_is_told(self, daemon):
        """When `process.stalled` is."""
        async with daemon.client() as one:
            await one.run("sleep", "1000", stall_timeout=0.2, grace=0.1, labels={"hook": "kept"})
        (told,) = await wait_for(lambda: documents(daemon.directory / "on_stall"), "it was told")
        assert told["idle_s"] > 0

    async def test_a_slow_one_loses_with_an_account(self, daemon):
        """The output goes on at its own speed; what the hook was not told is counted, to the byte."""
        lines = 20_000
        async with daemon.client() as one:
            done = await one.run(command=f"seq {lines}", labels={"hook": "late"})
            written = done.notifications[-1]["params"]["stdout_bytes"]
            assert len(done.stdout) == written
        file = daemon.directory / "on_output"

        def accounted() -> int:
            batches = [each["output"] for each in documents(file)]
            return sum(len(each.get("stdout", {"data": ""})["data"]) + each["missed_bytes"] for each in batches)

        await wait_for(lambda: accounted() == written, "every byte was told or counted")
        assert any(each["output"]["missed_bytes"] for each in documents(file))
        assert daemon.daemon._hooks.held == 0

    async def test_a_failing_one_warns_once(self, daemon):
        """Of one execution, for one reason; after its end nothing is told any more, and counted all the same."""
        async with daemon.client() as one:
            running_one = await one.execute("sh", "-c", "while :; do echo x; sleep 0.02; done", labels={"hook": "deaf"})
            warning = await one.notification("hook.warning", running_one.id)
            assert (warning["event"], warning["reason"]) == ("on_output", "exit")

            def failures() -> int:
                hooks = daemon.daemon._hooks.told(in_full=True)["hooks"]
                return next(each["failures"] for each in hooks if each["name"] == "deaf")

            await wait_for(lambda: failures() >= 3, "it has failed again")
            await running_one.control("KILL")
            assert running_one.sequence().count("hook.warning") == 1
            before = failures()
            await wait_for(lambda: failures() > before, "it was told of the end, too")

    async def test_a_stop_waits_for_it_a_moment_only(self, daemon, monkeypatch):
        """What hangs is ended with the daemon, and `running` sees that nothing is left."""
        monkeypatch.setattr("ccexecd.hooks.register.FAREWELL", 0.2)
        async with daemon.client() as one:
            await one.run("true", labels={"hook": "endless"})
            await wait_for(lambda: daemon.daemon._hooks._calls.running, "the hook runs")
        await daemon.daemon.stop(0.0, 0.0)
        assert not daemon.daemon._hooks._calls.running


async def test_a_finished_execution_is_not_kept_by_its_hooks(daemon, monkeypatch):
    """No cycle of references: its memory is free when it is forgotten, not when the collector comes around to it."""
    monkeypatch.setattr(records, "REMEMBERED_EXECUTIONS", 1)
    engine, hooks = daemon.daemon._engine, daemon.daemon._hooks
    kept = []
    gc.collect()
    gc.disable()
    try:
        async with daemon.client() as one:
            for name in ("kept", "change", "deaf"):
                running_one = await one.execute(command="echo x; echo y", labels={"hook": name})
                kept.append(weakref.ref(engine.executions[running_one.id]))
                await running_one.completed()
            await one.run("true")
        await wait_for(lambda: not hooks._under_way, "everything was told")
        await wait_for(lambda: [ref() for ref in kept] == [None] * 3, "they are gone")
    finally:
        gc.enable()


class TestAsking:
    """What the operator can ask, and do."""

    async def test_status_has_figures_and_for_the_operator_more(self, daemon):
        """Clients that may only look are not told what is run, nor why it failed."""
        await daemon.ask("token_add", name="watcher", scopes=["observe"])
        token = await daemon.ask("token_rotate", name="watcher")
        async with daemon.client() as one:
            await refused(one, "execute", argv=["true"], labels={"hook": "needed"})
            told = await one.request("hook_status")
        async with daemon.client(token=token["token"]) as one:
            seen = await one.request("hook_status")
        assert told["enabled"]
        (needed,) = [each for each in told["hooks"] if each["name"] == "needed"]
        assert (needed["calls"], needed["failures"], needed["required"]) == (1, 1, True)
        assert needed["run"] == ["/bin/sh", "-c", "exit 3"]
        assert needed["conditions"] == {"labels": {"hook": "needed"}}
        assert needed["last_failure"]["message"] == "ended with exit code 3"
        (needed,) = [each for each in seen["hooks"] if each["name"] == "needed"]
        assert not {"run", "last_failure", "conditions", "entry_point"} & needed.keys()

    async def test_which_ones_a_command_meets(self, daemon):
        """By event; nothing is called."""
        met = await daemon.ask("hook_test", argv=["true"], labels={"hook": "kept"})
        assert met["hooks"] == {
            "pre_execute": [],
            "post_execute": ["kept"],
            "on_output": ["kept"],
            "on_error": ["kept"],
            "on_stall": ["kept"],
        }
        assert not documents(daemon.directory / "on_output")

    async def test_one_can_be_tried(self, daemon):
        """Nothing is executed; the answer tells what would be."""
        tried = await daemon.ask("hook_run", name="change", argv=["ls", "-l"])
        assert (tried["status"], tried["runs"]) == ("ok", ["env", "W=3", "ls", "-l"])
        assert tried["environment_names"] == ["A"]
        assert (await daemon.ask("hook_run", name="refuse"))["status"] == "refused"
        failed = await daemon.ask("hook_run", name="needed")
        assert (failed["status"], failed["reason"]) == ("failed", "exit")
        await daemon.ask("hook_run", name="kept", event="on_error")
        assert documents(daemon.directory / "on_error")[0]["execution"]["trial"]
        async with daemon.operator() as one:
            assert "no such hook" in str(await refused(one, "hook_run", name="nobody"))
            assert "must be one of on_output" in str(await refused(one, "hook_run", name="kept"))
        assert not recorded(daemon, "decision")
        assert {each["method"] for each in recorded(daemon, "call")} == {"hook_run"}

    async def test_a_reload_reads_the_file_again(self, tmp_path):
        """A wrong one changes nothing; without hooks, none of it is there."""
        config, file = tmp_path / "ccexecd.toml", tmp_path / "hooks.toml"
        async with running(tmp_path) as one:
            assert await one.ask("hook_status") == {"enabled": False, "hooks": [], "running": 0, "waiting": 0}
            assert (await one.ask("hook_test", argv=["x"]))["hooks"]["pre_execute"] == []
            config.write_text(f'hooks_file = "{file}"\n')
            file.write_text(hook("a", "pre_execute", "exit 0"))
            file.chmod(0o600)
            assert (await one.ask("reload"))["changed"] == ["hooks_file"]
            assert [each["name"] for each in (await one.ask("hook_status"))["hooks"]] == ["a"]
            file.write_text(hook("b", "pre_execute", "exit 0"))
            assert (await one.ask("reload"))["changed"] == ["hooks_file"]
            file.write_text(hook("c", "pre", "exit 0"))
            async with one.operator() as operator:
                error = await refused(operator, "reload")
            assert "hook[0].events[0]" in str(error)
            assert [each["name"] for each in (await one.ask("hook_status"))["hooks"]] == ["b"]
