"""What plain HTTP serves: health checks for load balancers, systemd and people.

Owns the paths and their answers. Must not decide what healthy means: the daemon does.
"""

from collections.abc import Callable
from typing import Any

from ccexecd.external.request import Request, Response, Route

Health = Callable[[], dict[str, Any]]
"""Tells the daemon's health; ``status`` is ``healthy``, ``degraded`` or ``draining``."""


def health_routes(health: Health) -> dict[str, Route]:
    """Path -> route of the health checks: 200 while the daemon takes commands, also if degraded, else 503."""

    async def answer(_: Request) -> Response:
        known = health()
        return Response.json(known, 503 if known["status"] == "draining" else 200)

    check = Route(("GET",), answer, public=True)
    return {"/health": check, "/healthz": check, "/readyz": check}
