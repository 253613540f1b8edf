"""What a monitoring system reads."""

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from ccexecd.external.metrics import CONTENT_TYPE, metrics_route, written
from ccexecd.external.request import Request
from ccexecd.service.figures import Figure, one
from tests.e2e.client import PATIENCE
from tests.e2e.daemon_process import eventually
from tests.in_process import Running, running
from tests.storage.disk import assert_counts

from .test_execute import Answer

Samples = dict[tuple[str, ...], float]
"""Values by the name of a sample and the values of its labels."""


def samples_of(text: str) -> Samples:
    """What a text in the format of Prometheus says, as Prometheus' own parser reads it."""
    families = text_string_to_metric_families(text)
    return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}


async def scraped(daemon: Running, *lines: str) -> Answer:
    """One look at the figures."""
    async with await daemon.dial() as stream:
        head = ["GET /metrics HTTP/1.1", "Host: localhost", "Connection: close", *lines, "", ""]
        await stream.send_all("\r\n".join(head).encode())
        received = b""
        with trio.fail_after(PATIENCE):
            while data := await stream.receive_some():
                received += data
    return Answer(received)


async def test_everything_that_was_done_is_counted(tmp_path):
    """What runs and what has finished, what they wrote, and what is kept of it."""
    async with running(tmp_path) as daemon, daemon.client() as one_client:
        before = samples_of((await scraped(daemon)).body.decode())
        assert before["ccexecd_executions_started_total",] == 0
        await one_client.run("sh", "-c", "echo out; echo err >&2; exit 3")
        living = await one_client.execute("sh", "-c", "echo more; sleep 60")
        await living.printed("more")
        answer = await scraped(daemon)
        assert (answer.status, answer.headers["content-type"]) == (200, CONTENT_TYPE)
        after = samples_of(answer.body.decode())
        assert after["ccexecd_sessions",] == after["ccexecd_executions", "RUNNING"] == 1
        assert after["ccexecd_connections",] == 2
        assert after["ccexecd_executions_started_total",] == 2
        assert after["ccexecd_executions_finished_total", "exited"] == 1
        assert after["ccexecd_output_bytes_total", "stdout"] == len("out\nmore\n")
        assert after["ccexecd_output_bytes_total", "stderr"] == len("err\n")
        assert after["ccexecd_output_dropped_bytes_total",] == 0
        assert_counts(int(after["ccexecd_spool_bytes",]), tmp_path / "output")
        assert after["ccexecd_spool_max_bytes",] > 1 << 20
        assert after["ccexecd_up_seconds",] > before["ccexecd_up_seconds",]


async def test_what_is_lost_is_counted_in_bytes_and_lines(tmp_path):
    """Of those that have finished and of those that run."""
    async with running(tmp_path, max_buffer_size=4096, spool_execution_bytes=0) as daemon, daemon.client() as client:
        done = await client.execute("seq", "100000", framing="raw")
        outcome = await client.request("wait", execution_id=done.id)
        figures = samples_of((await scraped(daemon)).body.decode())
        assert figures["ccexecd_output_dropped_bytes_total",] == outcome["dropped_bytes"] > 500_000
        lines = figures["ccexecd_output_dropped_lines_total",]
        assert 90_000 < lines <= 100_000
        living = await client.execute("sh", "-c", "seq 100000; sleep 60", framing="raw")
        log = daemon.daemon._engine.live[living.id].log
        await eventually(lambda: log.sizes["stdout"] == 588_895, "all is written")
        figures = samples_of((await scraped(daemon)).body.decode())
        assert figures["ccexecd_output_dropped_bytes_total",] == outcome["dropped_bytes"] + log.dropped_bytes
        assert figures["ccexecd_output_dropped_lines_total",] == lines + log.dropped_lines


async def test_who_was_refused_is_counted(tmp_path):
    """By the reason; a web page reads no figures."""
    async with running(tmp_path) as daemon:
        assert (await scraped(daemon, "Origin: http://evil.example")).status == 403
        figures = samples_of((await scraped(daemon)).body.decode())
        assert sum(value for (name, *_), value in figures.items() if name == "ccexecd_refusals_total") == 1


def test_whatever_a_label_says_it_can_be_read():
    """Quotes, backslashes and line feeds are no end of anything."""
    odd = {'say "no"\\': 1.0, "two\nlines": 2.0}
    text = written([Figure("a_total", "counter", "meaning\nof it", odd, "why"), one("b", "gauge", "b", 1.5)]).decode()
    assert samples_of(text) == {("a_total", 'say "no"\\'): 1.0, ("a_total", "two\nlines"): 2.0, ("b",): 1.5}
    assert "# TYPE a_total counter" in text
    assert "# TYPE b gauge" in text


@pytest.mark.usefixtures("no_thread")
async def test_without_a_thread_the_figures_are_told_all_the_same():
    """When every process that there may be is taken is when people look at them."""
    route = metrics_route(lambda: [one("ccexecd_up_seconds", "gauge", "time since the start", 1.0)])
    response = await route.answer(Request("GET", "/metrics", "", {}, "127.0.0.1:1"))
    assert isinstance(response.body, bytes)
    assert samples_of(response.body.decode()) == {("ccexecd_up_seconds",): 1.0}
