"""What plain HTTP serves of a daemon: its health."""

import json
from typing import Any

import pytest
import trio

from ccexecd import __version__
from ccexecd.external.request import Request
from ccexecd.external.routes import health_routes
from tests.e2e.client import PATIENCE
from tests.in_process import Running, running

PATHS = ("/health", "/healthz", "/readyz")


async def get(daemon: Running, path: str, *lines: str, method: str = "GET") -> tuple[int, Any]:
    """Status and body of one exchange."""
    async with await daemon.dial() as stream:
        head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *lines, "", ""])
        await stream.send_all(head.encode())
        received = b""
        with trio.fail_after(PATIENCE):
            while data := await stream.receive_some():
                received += data
    answer, _, body = received.partition(b"\r\n\r\n")
    return int(answer.split()[1]), json.loads(body) if body else None


@pytest.mark.parametrize("path", PATHS)
async def test_a_daemon_that_serves_is_healthy(tmp_path, path):
    """200, and how much it has to do; a client that runs something is counted."""
    async with running(tmp_path, max_sessions=7) as daemon:
        status, health = await get(daemon, path)
        assert status == 200
        assert health.pop("uptime_seconds") > 0
        assert health == {
            "status": "healthy",
            "problems": [],
            "service": "ccexecd",
            "version": __version__,
            "active_sessions": 0,
            "max_sessions": 7,
            "live_executions": 0,
            "queued_executions": 0,
        }
        async with daemon.client() as one:
            await one.execute("sleep", "60")
            _, health = await get(daemon, path)
            assert (health["active_sessions"], health["live_executions"]) == (1, 1)


async def test_health_is_the_same_on_both_doors(tmp_path):
    """An operator and a load balancer are told the same."""
    async with running(tmp_path) as daemon:
        _, public = await get(daemon, "/health")
        private = await daemon.ask("health")
        assert public | {"uptime_seconds": 0} == private | {"uptime_seconds": 0}


async def test_only_the_head_when_only_that_is_asked_for(tmp_path):
    """HEAD tells the status without a body."""
    async with running(tmp_path) as daemon:
        assert await get(daemon, "/health", method="HEAD") == (200, None)


async def test_health_is_public_but_not_for_web_pages(tmp_path):
    """No authorisation is needed; a page in somebody's browser is refused all the same."""
    async with running(tmp_path) as daemon:
        assert (await get(daemon, "/health", "Authorization: Bearer wrong"))[0] == 200
        assert (await get(daemon, "/health", "Origin: http://localhost"))[0] == 403


@pytest.mark.parametrize("path", PATHS)
async def test_a_daemon_that_drains_is_not(path):
    """503 with the same body: a load balancer takes its clients elsewhere."""
    routes = health_routes(lambda: {"status": "draining", "live_executions": 1})
    response = await routes[path].answer(Request("GET", path, "", {}, "peer"))
    assert response.status == 503
    assert json.loads(response.body) == {"status": "draining", "live_executions": 1}
    assert routes[path].public
