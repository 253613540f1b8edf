"""What a client hears of a request that cannot be served: a code, which param, and what to do; and it goes on."""

import json

import pytest

from .client import RefusedError, connect

EXECUTE = '{"jsonrpc": "2.0", "id": 7, "method": "execute", "params": %s}'


async def refused(one, **params) -> RefusedError:
    """Ask for an execution that is refused."""
    with pytest.raises(RefusedError) as caught:
        await one.request("execute", **params)
    return caught.value


async def answered(one, params: str) -> dict:
    """The error that raw params, as no encoder would write them, are answered with; then see that all is well."""
    await one.send(EXECUTE % params)
    reply = await one.until(lambda message: message.get("id") == 7)
    assert (await one.run("echo", "fine")).stdout == "fine\n"
    return reply["error"]


class TestParams:
    """-32602 with the path of everything that is wrong, and never the value."""

    @pytest.mark.parametrize(
        ("params", "path"),
        [
            ({}, "$"),
            ({"command": "true", "argv": ["true"]}, "$"),
            ({"command": ""}, "$.command"),
            ({"command": " \n\t"}, "$.command"),
            ({"argv": []}, "$.argv"),
            ({"argv": [""]}, "$.argv"),
            ({"argv": "ls -l"}, "$.argv"),
            ({"argv": ["a", None]}, "$.argv[1]"),
            ({"command": ["ls"]}, "$.command"),
            ({"command": "true", "timeout": "5"}, "$.timeout"),
            ({"command": "true", "timeout": -1}, "$.timeout"),
            ({"command": "true", "timeout": True}, "$.timeout"),
            ({"command": "true", "env": {"A": 1}}, "$.env['A']"),
            ({"command": "true", "env": {"A=B": "1"}}, "$.env"),
            ({"command": "true", "env": {"": "1"}}, "$.env"),
            ({"command": "true", "cwd": 5}, "$.cwd"),
            ({"command": "true", "stdin": True}, "$.stdin"),
            ({"command": "true", "framing": "words"}, "$.framing"),
            ({"command": "true", "on_disconnect": "maybe"}, "$.on_disconnect"),
            ({"command": "ec\0ho"}, "$.command"),
            ({"argv": ["echo", "a\0b"]}, "$.argv[1]"),
            ({"command": "true", "cwd": "/\0"}, "$.cwd"),
            ({"command": "true", "env": {"A": "\0"}}, "$.env['A']"),
            ({"command": "true", "env": {"A\0": ""}}, r"$.env['A\x00']"),
        ],
    )
    async def test_a_wrong_param_is_named(self, client, params, path):
        """Missing, both, empty, of another type, out of range, with a NUL: the path says which param it is."""
        async with client() as one:
            error = await refused(one, **params)
            assert error.code == -32602
            assert [problem["path"] for problem in error.facts] == [path]
            assert all(problem["error"] for problem in error.facts)

    async def test_everything_that_is_wrong_is_named_at_once(self, client):
        """Three faults, three paths: nobody has to find them one at a time."""
        async with client() as one:
            error = await refused(one, command=1, cwd=2, timeout="3")
            assert {problem["path"] for problem in error.facts} == {"$.command", "$.cwd", "$.timeout"}

    async def test_the_value_is_never_repeated(self, client):
        """What a client sent by mistake may be a secret: neither answer nor log has it."""
        async with client() as one:
            error = await refused(one, command="true", env={"TOKEN": ["hunter2"]}, timeout="hunter2")
            assert "hunter2" not in json.dumps([error.message, error.facts])

    @pytest.mark.parametrize(
        ("params", "path"),
        [
            ('{"command": "echo \\ud800"}', "$.command"),
            ('{"command": "echo \\udc00 end"}', "$.command"),
            ('{"argv": ["echo", "\\udfff\\ud800"]}', "$.argv[1]"),
            ('{"command": "true", "cwd": "\\ud83d"}', "$.cwd"),
            ('{"command": "true", "env": {"A": "\\ud800"}}', "$.env.A"),
            ('{"command": "true", "timeout": 1e400}', "$.timeout"),
            ('{"command": "true", "timeout": -1e400}', "$.timeout"),
            ('{"command": "true", "timeout": %s}' % ("9" * 5000), "$.timeout"),
            ('{"command": "true", "grace": 0.%se999}' % ("1" * 5000), "$.grace"),
            ('{"command": %s}' % ("[" * 100_000 + "]" * 100_000), "$.command[0][0][0][0]"),
            ('{"argv": %s}' % ('{"a":' * 100_000 + "1" + "}" * 100_000), "$.argv.a.a.a.a"),
        ],
        ids=lambda value: value[:24],
    )
    async def test_json_that_no_value_can_hold_is_named(self, client, params, path):
        """Lone surrogates, numbers beyond a double, nesting without end: -32602 that says which param, with the id."""
        async with client() as one:
            error = await answered(one, params)
            assert error["code"] == -32602
            assert path in [problem["path"] for problem in error["data"]]

    async def test_brackets_that_never_close_are_no_json(self, client):
        """100,000 of them are -32700, and cost nobody anything."""
        async with client() as one:
            await one.send("[" * 100_000)
            reply = await one.until(lambda message: "error" in message)
            assert (reply["id"], reply["error"]["code"]) == (None, -32700)
            assert (await one.run("echo", "fine")).stdout == "fine\n"


class TestSpawn:
    """-32006 with errno, its text, and what it was about; nothing of the execution is left running."""

    @pytest.mark.parametrize(
        ("params", "errno", "subject"),
        [
            ({"argv": ["/no/such/program"]}, 2, "program"),
            ({"argv": ["no-such-program-anywhere"]}, 2, "program"),
            ({"argv": ["/etc/passwd"]}, 13, "program"),
            ({"argv": ["/"]}, 13, "program"),
            ({"argv": ["true"], "cwd": "/no/such/directory"}, 2, "cwd"),
            ({"argv": ["true"], "cwd": "/etc/passwd"}, 20, "cwd"),
            ({"argv": ["echo", "x" * 200_000]}, 7, "program"),
            ({"argv": ["echo", *["x" * 1000] * 5000]}, 7, "program"),
            ({"command": "echo " + "x" * 200_000}, 7, "program"),
            ({"argv": ["true"], "env": {"A": "x" * 200_000}}, 7, "program"),
        ],
        ids=lambda value: str(value)[:32],
    )
    async def test_what_cannot_be_started_is_told(self, client, daemon, params, errno, subject):
        """No program, no directory, not executable, too long: the kernel's number and whose fault it was."""
        async with client() as one:
            error = await refused(one, **params)
            assert error.code == -32006
            assert (error.facts["errno"], error.facts["subject"]) == (errno, subject)
            assert error.facts["strerror"] in error.message
            assert daemon.processes() == []
            listed = daemon.request("list", session=one.greeting["session_id"])["executions"]
            assert [(each["state"], each["reason"]) for each in listed] == [("FINISHED", "spawn_failed")]
            assert (await one.run("echo", "fine")).stdout == "fine\n"

    async def test_a_command_that_the_shell_does_not_find_is_the_shells_answer(self, client):
        """With `command`, the shell was started: 127, and its words on stderr."""
        async with client() as one:
            done = await one.run(command="no-such-program-anywhere")
            assert done.notifications[-1]["params"]["exit_code"] == 127
            assert "no-such-program-anywhere" in done.stderr


class TestWhichExecution:
    """Requests about an execution that is not there, not meant, or not in the state for it."""

    async def test_an_execution_that_is_not_there(self, client):
        """-32003, whatever is asked of it."""
        async with client() as one:
            for method, params in (
                ("control", {"type": "CANCEL"}),
                ("write_stdin", {"data": ""}),
                ("close_stdin", {}),
                ("attach", {}),
                ("detach", {}),
                ("read_output", {}),
                ("wait", {}),
                ("status", {}),
            ):
                with pytest.raises(RefusedError) as caught:
                    await one.request(method, execution_id="no-such-execution", **params)
                assert caught.value.code == -32003, method

    async def test_no_id_and_none_running(self, client):
        """-32003: there is nothing that could be meant."""
        async with client() as one:
            await one.run("true")
            for kind in ("PAUSE", "RESUME", "CANCEL", "KILL"):
                with pytest.raises(RefusedError, match="-32003"):
                    await one.request("control", type=kind)

    async def test_no_id_and_several_running(self, client):
        """-32014 with the ids that could be meant; both go on."""
        async with client() as one:
            two = [await one.execute("sleep", "300") for _ in range(2)]
            with pytest.raises(RefusedError) as caught:
                await one.request("control", type="CANCEL")
            assert caught.value.code == -32014
            assert set(caught.value.facts["executions"]) == {each.id for each in two}
            assert (await two[0].control("CANCEL"))["status"] == "cancelled"
            assert (await one.request("control", type="CANCEL"))["execution_id"] == two[1].id

    async def test_a_state_that_does_not_admit_it(self, client):
        """-32005 names the state: resume what runs, pause what is paused, anything on what has finished."""
        async with client() as one:
            execution = await one.execute("sleep", "300", stdin="open")

            async def state_in_the_way(ask, *args, **params):
                with pytest.raises(RefusedError) as caught:
                    await ask(*args, **params)
                assert caught.value.code == -32005
                return caught.value.facts["state"]

            assert await state_in_the_way(execution.control, "RESUME") == "RUNNING"
            await execution.control("PAUSE")
            assert await state_in_the_way(execution.control, "PAUSE") == "PAUSED"
            await execution.control("CANCEL")
            for kind in ("PAUSE", "RESUME", "CANCEL", "KILL"):
                assert await state_in_the_way(execution.control, kind) == "FINISHED"
            assert await state_in_the_way(execution.control, "SIGNAL", signal="USR1") == "FINISHED"
            assert await state_in_the_way(one.request, "write_stdin", execution_id=execution.id, data="x") == "FINISHED"

    @pytest.mark.parametrize(
        ("params", "path"),
        [
            ({}, "$.type"),
            ({"type": "STOP"}, "$.type"),
            ({"type": "pause"}, "$.type"),
            ({"type": "SIGNAL"}, "$.signal"),
            ({"type": "SIGNAL", "signal": "NOPE"}, "$.signal"),
            ({"type": "CANCEL", "grace": -1}, "$.grace"),
            ({"type": "CANCEL", "wait": 1}, "$.wait"),
        ],
    )
    async def test_a_control_that_does_not_exist(self, client, params, path):
        """-32602 with its path, and the execution goes on."""
        async with client() as one:
            execution = await one.execute("sleep", "300")
            with pytest.raises(RefusedError) as caught:
                await one.request("control", **params)
            assert caught.value.code == -32602
            assert [problem["path"] for problem in caught.value.facts] == [path]
            assert (await one.request("status", execution_id=execution.id))["state"] == "RUNNING"


async def test_an_allow_list_is_kept(start_daemon):
    """-32002 for what is not in `allowed_commands`, and a shell cannot get around it."""
    daemon = start_daemon(allowed_commands="echo")
    async with connect(daemon.address) as one:
        assert (await one.run("echo", "fine")).stdout == "fine\n"
        assert (await one.run(command="echo fine")).stdout == "fine\n"
        for params in ({"argv": ["ls"]}, {"command": "ls"}, {"command": "echo a; ls"}, {"command": "echo $(ls)"}):
            assert (await refused(one, **params)).code == -32002
