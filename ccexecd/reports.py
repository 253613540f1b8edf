"""The reports of a daemon about itself: status for operators, health checks, figures for a monitoring system.

Owns their fields and figures. Must not change anything.
"""

import os
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import attrs

from ccexecd import __version__
from ccexecd.config import LoadedConfig
from ccexecd.engine import Engine
from ccexecd.external.door import Door
from ccexecd.logs import Log
from ccexecd.paths import Places
from ccexecd.process.keeper_client import KeeperClient
from ccexecd.process.measure import usage
from ccexecd.service.figures import Figure, figures_of, one
from ccexecd.service.refusals import Refusals
from ccexecd.service.status import counts_of
from ccexecd.storage.archive import Archive
from ccexecd.storage.audit import Audit


@attrs.define
class Reports:
    """The reports of one daemon.

    Args:
        engine, door, keeper, archive, audit, refusals: the parts that are reported on.
        places: where its files are.
        log: its log.
        loaded: the configuration that was loaded last.
    """

    engine: Engine
    door: Door
    keeper: KeeperClient
    archive: Archive
    audit: Audit
    refusals: Refusals
    places: Places
    log: Log
    loaded: LoadedConfig
    started_at: datetime = attrs.field(factory=lambda: datetime.now(UTC), init=False)
    _started_clock: float = attrs.field(factory=time.monotonic, init=False)

    @property
    def uptime(self) -> float:
        """Seconds since the start."""
        return round(time.monotonic() - self._started_clock, 3)

    @property
    def problems(self) -> dict[str, str]:
        """Present problems: what, in words for everybody, and why, for operators only."""
        return self.archive.problems | self.audit.problems | self.engine.records.estimates.problems

    async def status(self) -> dict[str, Any]:
        """The answer to `status`, as JSON values."""
        memory = await usage([os.getpid(), *([self.keeper.pid] if self.keeper.pid else [])])
        addresses = self.door.addresses
        return {
            "pid": os.getpid(),
            "state": "draining" if self.engine.draining else "running",
            "version": __version__,
            "started_at": self.started_at.isoformat(),
            "uptime_seconds": self.uptime,
            "address": addresses[0],
            "addresses": addresses,
            "url": self.door.url,
            "control_socket": str(self.places.control_socket),
            "pidfile": str(self.places.pidfile),
            "log_file": str(self.log.path) if self.log.path else None,
            "state_dir": str(self.places.state_dir),
            "config_file": str(self.loaded.files[0]) if self.loaded.files else None,
            "sessions": len(self.engine.sessions),
            "max_sessions": self.engine.config.max_sessions,
            "connections": self.door.open_connections,
            "executions": counts_of(self.engine),
            "output": self.archive.spool.status(),
            "problems": self.problems,
            "keeper": {"pid": self.keeper.pid, "control_group": self.keeper.control_group},
            "memory_bytes": memory["memory_bytes"],
            "audit": self.audit.status(),
            "receipts": self.archive.notary.status(),
        }

    def health(self) -> dict[str, Any]:
        """The answer to `health`, as JSON values: whether it takes commands and can keep their output."""
        problems = self.problems
        return {
            "status": "draining" if self.engine.draining else "degraded" if problems else "healthy",
            "problems": list(problems),
            "service": "ccexecd",
            "version": __version__,
            "active_sessions": len(self.engine.sessions),
            "max_sessions": self.engine.config.max_sessions,
            "live_executions": len(self.engine.live),
            "queued_executions": len(self.engine.turns),
            "uptime_seconds": self.uptime,
        }

    def figures(self) -> Iterable[Figure]:
        """The figures of `GET /metrics`."""
        spool = self.archive.spool
        yield one("ccexecd_up_seconds", "gauge", "time since the start", self.uptime)
        yield one("ccexecd_connections", "gauge", "open connections of clients", self.door.open_connections)
        yield from figures_of(self.engine)
        yield one("ccexecd_spool_bytes", "gauge", "output and journals on disk", spool.used_bytes)
        yield one("ccexecd_spool_max_bytes", "gauge", "what they may take", spool.total_bytes)
        yield one("ccexecd_spool_gone_bytes_total", "counter", "what went by its age or the total", spool.gone_bytes)
        problems = dict.fromkeys(self.problems, 1.0)
        yield Figure("ccexecd_problems", "gauge", "what is not kept", problems, "problem")
        yield Figure("ccexecd_refusals_total", "counter", "who was not let in", self.refusals.counts, "reason")
