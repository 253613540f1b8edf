"""logs: the output of an execution from any position, to its present end or to its last."""

import base64
import itertools

import pytest


class Log:
    """A `read_output` over a list of chunks that a test may let grow."""

    def __init__(self, daemon, *pieces, state="FINISHED", oldest_seq=1):
        self.chunks = []
        self.state = state
        self.oldest_seq = oldest_seq
        self.at_end = None
        for stream, text in pieces:
            self.append(stream, text)
        daemon.answers["status"] = lambda conversation, request: conversation.reply(request, self.status())
        daemon.answers["read_output"] = self.read

    def status(self):
        return {"execution_id": "1f0c9b2e-full", "state": self.state, "next_seq": len(self.chunks) + 2}

    def append(self, stream, text):
        self.chunks.append({"seq": len(self.chunks) + 2, "type": stream, "data": text})

    def read(self, conversation, request):
        """One piece an answer, so that every test reads on."""
        params = request["params"]
        start = max(params["from_seq"], 1)
        found = [each for each in self.chunks if each["seq"] >= start and each["type"] in params["streams"]][:1]
        answer = {
            "chunks": found,
            "next_seq": found[0]["seq"] + 1 if found else max(start, len(self.chunks) + 2),
            "oldest_seq": self.oldest_seq,
            "state": self.state,
        }
        conversation.reply(request, answer)
        if not found and self.at_end:
            self.at_end()


def test_output_is_printed_as_it_was_written(ctl, daemon):
    """Both streams, each to its own, all pieces."""
    Log(daemon, ("stdout", "a\n"), ("stderr", "b\n"), ("stdout", "c\n"))
    assert ctl("logs", "1f0c") == (0, "a\nc\n", "b\n")


@pytest.mark.parametrize(
    ("flags", "out", "err"), [(["--stdout"], "a", ""), (["--stderr"], "", "b"), (["--stdout", "--stderr"], "a", "b")]
)
def test_one_stream_can_be_chosen(ctl, daemon, flags, out, err):
    """--stdout, --stderr, or both."""
    Log(daemon, ("stdout", "a"), ("stderr", "b"))
    assert ctl("logs", "e", *flags) == (0, out, err)


@pytest.mark.parametrize(
    ("lines", "out", "err"),
    [("0", "", ""), ("1", "d", ""), ("2", "d", "c\n"), ("3", "b\nd", "c\n"), ("9", "a\nb\nd", "c\n")],
)
def test_the_last_lines_can_be_chosen(ctl, daemon, lines, out, err):
    """--tail counts lines of both streams as they were written, also one that has no end yet."""
    Log(daemon, ("stdout", "a\nb\n"), ("stderr", "c\n"), ("stdout", "d"))
    assert ctl("logs", "e", "--tail", lines) == (0, out, err)


def test_the_last_lines_are_read_from_the_end(ctl, daemon):
    """A long log is not read for a few of its lines; where its last pieces do not have them, more is read."""
    Log(daemon, *[("stdout", f"{n}\n") for n in range(1000)])
    assert ctl("logs", "e", "-n", "3").out == "997\n998\n999\n"
    assert min(asked["from_seq"] for asked in daemon.asked("read_output")) > 900
    assert ctl("logs", "e", "-n", "100").out.splitlines() == [str(n) for n in range(900, 1000)]


def test_following_goes_on_behind_the_last_lines(ctl, daemon):
    """`--tail 1 --follow`: one line of what was there, and all that comes."""
    log = Log(daemon, ("stdout", "a\n"), ("stdout", "b\n"), state="RUNNING")

    def end():
        log.append("stdout", "c\n")
        log.state, log.at_end = "FINISHED", None

    log.at_end = end
    assert ctl("logs", "e", "--tail", "1", "--follow").out == "b\nc\n"


@pytest.mark.parametrize("flags", [("--json",), ("--since-seq", "3")])
def test_the_last_lines_are_no_pieces(ctl, daemon, flags):
    """What is about pieces does not go with lines: wrong usage."""
    assert ctl("logs", "e", "--tail", "1", *flags).code == 2


def test_a_position_can_be_chosen(ctl, daemon):
    """--since-seq N leaves out what came before."""
    Log(daemon, ("stdout", "a"), ("stdout", "b"), ("stdout", "c"))
    assert ctl("logs", "e", "--since-seq", "3").out == "bc"


def test_bytes_that_are_no_text_pass(ctl_process, daemon):
    """What is not UTF-8 comes as base64 and leaves as it was."""
    log = Log(daemon, ("stdout", ""))
    log.chunks[0] |= {"data": base64.b64encode(b"\xff\x00\x1b[31m").decode(), "encoding": "base64"}
    assert ctl_process("logs", "e").communicate(timeout=20) == (b"\xff\x00\x1b[31m", b"")


def test_a_program_that_never_stops_is_read_to_its_present_end(ctl, daemon):
    """Without --follow, what is written meanwhile is left for the next time."""
    log = Log(daemon, ("stdout", "a"), state="RUNNING")
    plain_read = log.read

    def read(conversation, request):
        plain_read(conversation, request)
        log.append("stdout", "x")

    daemon.answers["read_output"] = read
    assert ctl("logs", "e").out == "a"


def test_following_goes_on_to_the_end(ctl, daemon):
    """--follow waits for what is to come, and exits 0 when the execution has finished, however it did."""
    log = Log(daemon, ("stdout", "a"), state="RUNNING")
    moments = itertools.count()

    def at_end():
        moment = next(moments)
        if moment == 0:
            log.append("stdout", "b")
        elif moment == 1:
            log.append("stderr", "c")
            log.state = "FINISHED"

    log.at_end = at_end
    assert ctl("logs", "e", "-f") == (0, "ab", "c")
    assert all(params["wait_s"] > 0 for params in daemon.asked("read_output"))


def test_what_is_no_longer_kept_is_said(ctl, daemon):
    """Output that has left the window is not silently missing."""
    Log(daemon, ("stdout", "a"), ("stdout", "b"), oldest_seq=2)
    said = ctl("logs", "e")
    assert said.code == 0
    assert said.err == "ccexecctl: what it wrote before piece 2 is no longer kept\n"


def test_a_position_that_has_gone_falls_forward(ctl, daemon, refusal):
    """OUTPUT_GONE is answered by reading from the oldest piece that there is."""
    log = Log(daemon, ("stdout", "a"), ("stdout", "b"), oldest_seq=3)

    def read(conversation, request):
        if request["params"]["from_seq"] < 3:
            error = refusal(-32007, "gone", {"oldest_seq": 3})
            conversation.send({"id": request["id"], "error": error._asdict()})
        else:
            log.read(conversation, request)

    daemon.answers["read_output"] = read
    assert ctl("logs", "e").out == "b"


def test_json_is_one_object(ctl, daemon):
    """--json: all pieces and the state, as one document."""
    Log(daemon, ("stdout", "a"), ("stderr", "b"))
    answer = ctl("logs", "e", "--json").json
    assert [chunk["data"] for chunk in answer["chunks"]] == ["a", "b"]
    assert answer["state"] == "FINISHED"


def test_following_json_is_one_object_a_line(ctl, daemon):
    """--follow --json cannot wait for the end: JSON Lines."""
    Log(daemon, ("stdout", "a"), ("stderr", "b"))
    lines = ctl("logs", "e", "-f", "--json").out.splitlines()
    assert ['"data": "a"' in lines[0], '"data": "b"' in lines[1], len(lines)] == [True, True, 2]


def test_an_unknown_id_is_refused(ctl, daemon, refusal):
    """No output, exit 1, and what to do."""
    daemon.answers["status"] = refusal(-32003, "no execution 'x'")
    said = ctl("logs", "x")
    assert said[:2] == (1, "")
    assert "ccexecctl ps --all" in said.plain


def test_a_reader_that_leaves_is_no_failure(ctl_process, daemon):
    """`ccexecctl logs ID | head -1` ends quietly."""
    Log(daemon, *[("stdout", "x" * 1000)] * 500)
    process = ctl_process("logs", "e")
    process.stdout.close()
    assert process.wait(timeout=20) == 141
    assert process.stderr.read() == b""
