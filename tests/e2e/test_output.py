"""Output on its way to a client: framing, long lines, text and bytes, input, and positions to come back to."""

import base64

import pytest

from .client import RefusedError, Watched, connect

PIECE = 64 * 1024

IN_PIECES = """
import fcntl, os, sys, termios
for piece in sys.argv[1:]:
    os.write(1, bytes.fromhex(piece))
    while any(fcntl.ioctl(1, termios.FIONREAD, bytes(4))):
        pass
"""
"""A program that writes pieces, each when the one before has been read: FIONREAD says what is still in the pipe."""


async def written_in_pieces(one, *pieces: bytes, **params) -> Watched:
    """Have a program write pieces that the daemon reads one at a time."""
    return await one.run("python3", "-c", IN_PIECES, *(piece.hex() for piece in pieces), **params)


class TestLongLines:
    """A notification holds 64 KiB at most."""

    @pytest.mark.parametrize("subprotocol", ["ccexec.v1", None])
    async def test_a_long_line_comes_in_numbered_parts(self, client, subprotocol):
        """A line of 200 KB is four parts with `chunk_index` and `total_chunks`; the lines around it are whole."""
        async with client(subprotocol=subprotocol) as one:
            done = await one.run("python3", "-c", "print('before'); print('x' * 200_000); print('after')")
            parts = [piece for piece in done.pieces() if "chunk_index" in piece]
            assert [(part["chunk_index"], part["total_chunks"]) for part in parts] == [(n, 4) for n in range(4)]
            assert "".join(part["data"] for part in parts) == "x" * 200_000 + "\n"
            assert all(len(piece["data"].encode()) <= PIECE for piece in done.pieces())
            assert done.stdout == "before\n" + "x" * 200_000 + "\nafter\n"

    async def test_a_line_is_never_cut_inside_a_character(self, client):
        """Parts of a long line of four-byte characters are text, each by itself."""
        async with client() as one:
            done = await one.run("python3", "-c", r"print('a' + '\U0001f600' * 50_000)")
            assert done.stdout == "a" + "\U0001f600" * 50_000 + "\n"
            assert "\ufffd" not in done.stdout
            assert len(done.pieces()) == 4

    async def test_a_line_of_exactly_one_piece_is_not_cut(self, client):
        """64 KiB with its line feed is one notification without numbers; one byte more is two."""
        async with client() as one:
            fits = await one.run("python3", "-c", f"print('x' * {PIECE - 1})")
            assert [piece.get("total_chunks") for piece in fits.pieces()] == [None]
            over = await one.run("python3", "-c", f"print('x' * {PIECE})")
            assert [piece.get("total_chunks") for piece in over.pieces()] == [2, 2]

    async def test_what_json_must_escape_fits_a_frame(self, client):
        """A line of control characters, six times as long in JSON, still comes in frames under 1 MiB."""
        async with client() as one:
            done = await one.run("python3", "-c", r"print('\x01' * 500_000)")
            assert done.stdout == "\x01" * 500_000 + "\n"
            assert max(map(len, one.texts)) <= 1024 * 1024


class TestUnfinishedLines:
    """A line waits for its end, except where it was asked for at once."""

    async def test_an_unfinished_line_waits_for_its_end(self, client):
        """Three writes, one line: one notification; and what the end of the output leaves unfinished comes then."""
        async with client() as one:
            done = await written_in_pieces(one, b"one", b" and ", b"two\nlast")
            assert [piece["data"] for piece in done.pieces()] == ["one and two\n", "last"]

    async def test_raw_comes_at_once(self, client):
        """In `raw` each write is seen when it happens: prompts, progress bars."""
        async with client() as one:
            execution = await one.execute(
                "sh", "-c", "printf 'name? '; read name; echo hi $name", stdin="open", framing="raw"
            )
            await execution.printed("name? ")
            await one.request("write_stdin", execution_id=execution.id, data="Ann\n")
            await execution.completed()
            assert execution.stdout == "name? hi Ann\n"

    async def test_a_line_that_never_ends_is_passed_on(self, start_daemon):
        """Beyond `max_buffer_size` an unfinished line is not kept for its end; nothing of it is lost."""
        daemon = start_daemon(max_buffer_size=256 * 1024)
        async with connect(daemon.address) as one:
            done = await one.run("head", "-c", "3000000", "/dev/zero")
            assert done.notifications[-1]["params"]["stdout_bytes"] == 3_000_000
            assert len(done.output()) + sum(gap["dropped_bytes"] for gap in done.gaps) == 3_000_000


class TestText:
    """`data` is text that never cuts a code point."""

    @pytest.mark.parametrize("framing", ["lines", "line", "raw"])
    async def test_a_character_split_between_two_writes_is_one_character(self, client, framing):
        """Every cut through é, €, and an emoji: the text is whole, in whatever framing."""
        text = "é€\U0001f600\n".encode()
        cuts = range(1, len(text))
        async with client() as one:
            pieces = [piece for cut in cuts for piece in (text[:cut], text[cut:])]
            done = await written_in_pieces(one, *pieces, framing=framing)
            assert done.output() == text * len(cuts)
            assert not any("\ufffd" in piece["data"] or "encoding" in piece for piece in done.pieces())

    async def test_what_is_no_text_becomes_replacement_characters(self, client):
        """Invalid bytes become U+FFFD; the text around them stays, and offsets go on counting bytes."""
        async with client() as one:
            done = await one.run("printf", r"a\377\376b\nnext\n", framing="line")
            assert [piece["data"] for piece in done.pieces()] == ["a\ufffd\ufffdb\n", "next\n"]
            assert [piece["offset"] for piece in done.pieces()] == [0, 5]
            assert done.notifications[-1]["params"]["stdout_bytes"] == 10

    async def test_raw_gives_bytes_that_are_no_text_exactly(self, client):
        """In `raw`, such a piece is base64 and says so: a program's output can be had to the byte."""
        everything = bytes(range(256)) * 1000
        async with client() as one:
            done = await one.run("python3", "-c", "import os; os.write(1, bytes(range(256)) * 1000)", framing="raw")
            assert done.output() == everything
            assert {piece["encoding"] for piece in done.pieces() if "encoding" in piece} == {"base64"}

    async def test_both_streams_keep_their_own_offsets(self, client):
        """stdout and stderr share the sequence, not the positions."""
        async with client() as one:
            done = await one.run("sh", "-c", "for i in 1 2 3; do echo out$i; echo err$i >&2; done")
            assert done.stdout == "out1\nout2\nout3\n"
            assert done.stderr == "err1\nerr2\nerr3\n"


class TestInput:
    """`stdin: "open"`, `write_stdin`, `close_stdin`."""

    async def test_input_is_written_and_ended(self, client):
        """Text and bytes arrive in order, each reply says how much was taken, and the end is seen as the end."""
        async with client() as one:
            execution = await one.execute("cat", stdin="open")
            say = {"execution_id": execution.id}
            assert await one.request("write_stdin", data="höflich\n", **say) == {"accepted_bytes": 9}
            payload = base64.b64encode(b"\x00bytes\n").decode()
            assert await one.request("write_stdin", data_base64=payload, **say) == {"accepted_bytes": 7}
            assert await one.request("close_stdin", **say) == {}
            assert (await execution.completed())["exit_code"] == 0
            assert execution.output() == "höflich\n\0bytes\n".encode()

    async def test_without_it_there_is_no_input(self, client):
        """Standard input is /dev/null: nothing waits for it (agents would hang), and it cannot be written to."""
        async with client() as one:
            done = await one.run("sh", "-c", "readlink /proc/self/fd/0; cat; echo end")
            assert done.stdout == "/dev/null\nend\n"
            execution = await one.execute("sleep", "300")
            with pytest.raises(RefusedError, match="-32012"):
                await one.request("write_stdin", execution_id=execution.id, data="x")

    async def test_after_its_end_nothing_is_taken(self, client):
        """A write after `close_stdin`, or after the program has closed it, is -32012."""
        async with client() as one:
            closed = await one.execute("sh", "-c", "cat; exec sleep 300", stdin="open")
            await one.request("close_stdin", execution_id=closed.id)
            with pytest.raises(RefusedError, match="-32012"):
                await one.request("write_stdin", execution_id=closed.id, data="x")
            given_up = await one.execute("sh", "-c", "exec <&-; echo closed; exec sleep 300", stdin="open")
            await given_up.printed("closed")
            with pytest.raises(RefusedError, match="-32012"):
                await one.request("write_stdin", execution_id=given_up.id, data="x")

    async def test_a_program_that_does_not_read_holds_up_nobody(self, client):
        """More than a pipe takes waits for the program; other requests of the same client are answered meanwhile."""
        async with client() as one:
            execution = await one.execute("sh", "-c", "read go; exec wc -c", stdin="open")
            asked = await one.ask("write_stdin", execution_id=execution.id, data="x" * 500_000)
            assert (await one.run("echo", "meanwhile")).stdout == "meanwhile\n"
            await one.ask("write_stdin", execution_id=execution.id, data="\n" + "y" * 1000)
            await one.request("control", type="CANCEL", execution_id=execution.id)
            with pytest.raises(RefusedError, match="-32012"):
                await one.answer(asked)

    async def test_much_input_passes_whole(self, client):
        """5 MB through `cat`: every byte comes back, in order."""
        async with client() as one:
            execution = await one.execute("cat", stdin="open", framing="raw")
            block = "".join(f"{number:09}\n" for number in range(50_000))
            for _ in range(10):
                await one.request("write_stdin", execution_id=execution.id, data=block)
            await one.request("close_stdin", execution_id=execution.id)
            await execution.completed()
            assert execution.stdout == block * 10


class TestPositions:
    """An execution's output is a log with positions; every watcher is a cursor over it."""

    async def test_another_client_can_watch(self, client):
        """`attach` from 0 gives everything from the start, as it was; from null only what comes."""
        async with client() as one, client() as other, client() as late:
            execution = await one.execute("sh", "-c", "echo first; read go; echo last", stdin="open")
            await execution.printed("first")
            watching = Watched(other, await attach(other, execution.id, 0))
            live = await attach(late, execution.id, None)
            await watching.printed("first")
            await one.request("write_stdin", execution_id=execution.id, data="\n")
            await execution.completed()
            await watching.completed()
            assert watching.notifications == execution.notifications
            seen = Watched(late, live, from_seq=live["next_seq"])
            await seen.completed()
            assert [piece["data"] for piece in seen.pieces()] == ["last\n"]

    async def test_a_position_can_be_chosen(self, client):
        """From every position of a finished execution, exactly the rest of it comes."""
        async with client() as one:
            done = await one.run("seq", "5", framing="line")
            whole = done.notifications
            for position in range(1, len(whole) + 1):
                async with client() as other:
                    again = Watched(other, await attach(other, done.id, position), from_seq=position)
                    await again.completed()
                    assert again.notifications == whole[position - 1 :]

    async def test_watching_can_be_stopped(self, client):
        """After `detach` nothing more comes, and the execution goes on to its end."""
        async with client() as one:
            execution = await one.execute("sh", "-c", "echo first; read go; echo last", stdin="open")
            await execution.printed("first")
            assert await one.request("detach", execution_id=execution.id) == {}
            await one.request("write_stdin", execution_id=execution.id, data="\n")
            outcome = await one.request("wait", execution_id=execution.id)
            assert (outcome["exit_code"], outcome["stdout_bytes"]) == (0, 11)
            assert execution.stdout == "first\n"
            assert execution.sequence() == ["process.started", "process.output"]

    async def test_output_can_be_pulled(self, client):
        """`read_output` gives the same entries in the portions asked for, waits where asked to, and tells the end."""
        async with client() as one:
            execution = await one.execute("sh", "-c", "seq 3; read go; echo last", stdin="open", framing="line")
            await execution.printed("3")
            pulled, position = [], 0
            while len(pulled) < 3:
                portion = await one.request("read_output", execution_id=execution.id, from_seq=position, max_bytes=1)
                assert portion["state"] == "RUNNING"
                pulled += portion["chunks"]
                position = portion["next_seq"]
            waiting = await one.ask("read_output", execution_id=execution.id, from_seq=position, wait_s=30)
            await one.request("write_stdin", execution_id=execution.id, data="\n")
            pulled += (await one.answer(waiting))["chunks"]
            await execution.completed()
            assert "".join(chunk["data"] for chunk in pulled) == "1\n2\n3\nlast\n"
            last = await one.request("read_output", execution_id=execution.id, from_seq=position)
            assert (last["state"], last["outcome"]["exit_code"]) == ("FINISHED", 0)

    async def test_what_is_no_longer_kept_is_told(self, start_daemon):
        """A position is then -32007 with the oldest one; from 0, a gap says exactly what is missing."""
        daemon = start_daemon(max_buffer_size=64 * 1024, spool_execution_bytes=256 * 1024)
        async with connect(daemon.address) as one, connect(daemon.address) as other:
            done = await one.execute("seq", "200000")
            outcome = await one.request("wait", execution_id=done.id)
            with pytest.raises(RefusedError) as refused:
                await attach(other, done.id, 1)
            assert refused.value.code == -32007
            again = Watched(other, await attach(other, done.id, 0))
            assert refused.value.facts == {"oldest_seq": again.reply["oldest_seq"]}
            await again.completed()
            assert [(gap["from_seq"], gap["to_seq"]) for gap in again.gaps] == [(1, again.reply["oldest_seq"] - 1)]
            kept = again.pieces()
            assert kept[0]["offset"] == outcome["dropped_bytes"] > 900_000
            assert again.output() == "".join(f"{n}\n" for n in range(1, 200_001)).encode()[kept[0]["offset"] :]

    async def test_status_and_list_tell_of_the_living_and_the_finished(self, client):
        """What runs and what has ended, found by state, session and label."""
        async with client() as one:
            running = await one.execute("sleep", "300", labels={"role": "long"})
            done = await one.run("sh", "-c", "exit 4", labels={"role": "short"})
            status = await one.request("status", execution_id=running.id)
            assert (status["state"], status["pid"], status["exit_code"]) == ("RUNNING", running.pid, None)
            status = await one.request("status", execution_id=done.id)
            assert (status["state"], status["reason"], status["exit_code"]) == ("FINISHED", "exited", 4)
            session = one.greeting["session_id"]

            async def found(**wanted) -> list[str]:
                listed = await one.request("list", session=session, **wanted)
                return [each["execution_id"] for each in listed["executions"]]

            assert await found() == [done.id, running.id]
            assert await found(state="RUNNING") == await found(state="live") == [running.id]
            assert await found(label="role=short") == [done.id]
            assert await found(label="role") == await found()
            assert await found(limit=1) == [done.id]

    async def test_wait_is_bounded_by_its_time(self, client):
        """`wait` gives the state when the time is up, the outcome when it has ended, at once when it had before."""
        async with client() as one:
            execution = await one.execute("sh", "-c", "read go; exit 5", stdin="open")
            assert await one.request("wait", execution_id=execution.id, timeout=0) == {"state": "RUNNING"}
            waiting = await one.ask("wait", execution_id=execution.id)
            await one.request("write_stdin", execution_id=execution.id, data="\n")
            assert (await one.answer(waiting))["exit_code"] == 5
            assert (await one.request("wait", execution_id=execution.id, timeout=0))["exit_code"] == 5

    @pytest.mark.parametrize("framing", ["lines", "line"])
    async def test_no_reply_exceeds_what_common_clients_take(self, client, framing):
        """Pulled output comes in replies under 1 MiB, however much is asked for and whatever JSON makes of it."""
        async with client() as one:
            done = await one.run("python3", "-c", r"print('\n' * 11_000 + ('\1' * 99 + '\n') * 3_000)", framing=framing)
            pulled, position = [], 0
            while position <= done.notifications[-1]["params"]["seq"]:
                portion = await one.request(
                    "read_output", execution_id=done.id, from_seq=position, max_bytes=16 * 1024 * 1024
                )
                pulled += portion["chunks"]
                assert ("outcome" in portion) == (portion["next_seq"] > done.notifications[-1]["params"]["seq"])
                position = portion["next_seq"]
            assert "".join(chunk["data"] for chunk in pulled) == done.stdout
            assert [chunk["seq"] for chunk in pulled] == [piece["seq"] for piece in done.pieces()]
            assert max(map(len, one.texts)) <= 1024 * 1024

    async def test_no_list_exceeds_what_common_clients_take(self, client):
        """`list` and `status` stay under 1 MiB, however long the commands are that they tell of."""
        async with client() as one:
            ids = [(await one.run("true", *["x" * 100_000] * 4)).id for _ in range(4)]
            for execution_id in ids:
                await one.request("status", execution_id=execution_id)
            listed = await one.request("list", session=one.greeting["session_id"])
            assert [each["execution_id"] for each in listed["executions"]] == ids[::-1]
            assert all(each["command"].startswith("true xxx") for each in listed["executions"])


async def attach(one, execution_id: str, from_seq: int | None) -> dict:
    """Watch an execution; gives the reply, with its id as `execute` has it."""
    reply = await one.request("attach", execution_id=execution_id, from_seq=from_seq)
    return {**reply, "execution_id": execution_id}
