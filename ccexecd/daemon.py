"""The daemon as a whole: its parts, and the order in which they start and end.

Owns the composition and nothing else. Indentation in `Daemon.serve` is the order of the end, from the inside out: the
port stops accepting, executions are ended with grace while everything still answers, clients get the last of their
output and a farewell, then the engine and the keeper go, and last the control socket, on which whoever asked for the
stop hears how it went.
"""

import gc
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import trio

from ccexecd import __version__
from ccexecd.budget import Budget, claim, look
from ccexecd.config import Config, ConfigError, LoadedConfig, Problem
from ccexecd.control import connection as control_connection
from ccexecd.control import listener as control_listener
from ccexecd.control.callers import Groups
from ccexecd.control.methods import operator_methods
from ccexecd.detach import Ready
from ccexecd.engine import Engine
from ccexecd.external.connection import Shared
from ccexecd.external.door import Door
from ccexecd.external.execute import execute_route
from ccexecd.external.metrics import metrics_route
from ccexecd.external.routes import health_routes
from ccexecd.external.tokens import Tokens
from ccexecd.logs import Log
from ccexecd.paths import Places
from ccexecd.process.execution import Execution
from ccexecd.process.keeper_client import KeeperClient
from ccexecd.process.pump import Pump
from ccexecd.records import retention_of
from ccexecd.reports import Reports
from ccexecd.service.dispatch import Answer
from ccexecd.service.methods import EXECUTION_METHODS
from ccexecd.service.rates import Rates
from ccexecd.service.refusals import Refusals
from ccexecd.service.status import status_method
from ccexecd.storage.archive import Archive
from ccexecd.storage.audit import Audit
from ccexecd.systemd import Notifier, forget

if TYPE_CHECKING:  # few have any
    from ccexecd.hooks.register import Hooks

log = logging.getLogger(__name__)

_GC_THRESHOLDS = (20_000, 50, 50)
"""Allocations between collections (gc.set_threshold): a stream of output makes many objects and no cycles."""

_SWITCH_INTERVAL = 0.0005
"""Seconds until a thread that writes to disk lets the event loop go on (sys.setswitchinterval). As Python ships it, it
is 5 ms, four times what a short command takes from its request to its end."""


class Daemon:
    """One daemon, from its configuration to its exit.

    Args:
        loaded: the configuration and its sources.
        places: where its files are.
        listen_fds: sockets that systemd has opened, by name.
        ready: called once, when both sockets answer.
        umask: file creation mask of executions.
        environ: environment that executions inherit.
        notifier: notifies systemd.
        log_output: the log of this process.
        budget: descriptors and processes that it may use; None to read the limits of this process.

    Attributes:
        status, health: its reports of itself.
        tokens: the tokens that admit clients.
    """

    _hooks: "Hooks | None" = None  # as long as none are configured
    _engine_nursery: trio.Nursery | None = None  # while it serves

    def __init__(
        self,
        loaded: LoadedConfig,
        places: Places,
        *,
        listen_fds: Mapping[str, list[int]],
        ready: Ready,
        umask: int,
        environ: Mapping[str, str],
        notifier: Notifier,
        log_output: Log,
        budget: Budget | None = None,
    ) -> None:
        self._budget = budget or look()
        self._loaded = loaded
        self._sources = dict(loaded.sources)
        self._places = places
        self._listen_fds = [fd for fds in listen_fds.values() for fd in fds]
        self._ready = ready
        self._notifier = notifier
        self._log_output = log_output
        self._keeper = KeeperClient(umask, descriptors=self._budget.inherited)
        self._pump = Pump()
        self._archive = Archive(places.state_dir, retention_of(loaded.config))
        self._audit = Audit(places.state_dir / "audit", loaded.config.audit_max_bytes, loaded.config.audit_files)
        most = self._budget.executions(loaded.config.max_connections)
        self._engine = Engine(
            loaded.config, self._keeper, self._pump, environ, self._archive, self._audit, loaded.policy, most
        )
        log_output.redact(self._engine.gate.redactor)
        self._archive.notary.redactor = self._engine.gate.redactor
        self._rates, self._refusals = Rates(loaded.config), Refusals()
        self._refusals.on_refusal = self._engine.gate.turned_away
        methods = dict(EXECUTION_METHODS)
        self._shared = Shared(self._engine, methods, secrets.token_hex(8), self._rates, self._refusals)
        routes = {"/execute": execute_route(self._engine, self._rates)}
        self.tokens = Tokens.load(places.token_file, places.state_dir / "tokens.json")
        self._door = Door(self._shared, routes, self._budget.fitted(loaded.config), self.tokens, self._refusals)
        self._reports = self._make_reports()
        self.status, self.health = self._reports.status, self._reports.health
        methods["status"] = status_method(self.status)  # it tells of the door, which has to be there first
        routes |= {**health_routes(self.health), "/metrics": metrics_route(self._reports.figures)}
        self._groups = Groups.named(loaded.config.control_read_groups, loaded.config.control_write_groups)
        self._stop_asked = trio.Event()
        self._stopped = trio.Event()
        self._drain = 0.0
        self._draining = trio.CancelScope()  # around the time in which executions may finish by themselves
        self._grace: float | None = None
        self._ended: list[Execution] = []
        self._sessions_ended = 0

    def _make_reports(self) -> Reports:
        return Reports(
            engine=self._engine,
            door=self._door,
            keeper=self._keeper,
            archive=self._archive,
            audit=self._audit,
            refusals=self._refusals,
            places=self._places,
            log=self._log_output,
            loaded=self._loaded,
        )

    async def serve(self) -> None:
        """Come up, serve until told to stop, and go.

        Raises:
            OSError: it cannot come up; the text says what, where and what to do.
        """
        control = control_listener.bind(self._places.control_socket, self._places.signpost, self._groups.all)
        try:
            async with control, trio.open_nursery() as control_nursery:
                async with trio.open_nursery() as engine_nursery:
                    engine_nursery.start_soon(self._archive.run)
                    await engine_nursery.start(self._keeper.run)
                    await self._archive.opened.wait()
                    engine_nursery.start_soon(self._pump.run)
                    engine_nursery.start_soon(self._audit.run)
                    self._engine_nursery = engine_nursery
                    self._use_hooks(self._loaded)  # before the engine takes up what an earlier daemon has left
                    await engine_nursery.start(self._engine.run)
                    engine_nursery.start_soon(self._engine.records.estimates.run)
                    async with trio.open_nursery() as external_nursery:
                        await self._door.open(self._engine.config, self._listen_fds)
                        await external_nursery.start(self._door.run)
                        await control_nursery.start(trio.serve_listeners, self._serve_operator, [control])
                        await control_nursery.start(self._heed_signals)
                        control_nursery.start_soon(self._feed_watchdog)
                        self._say_ready()
                        await self._stop_asked.wait()
                        await self._wind_down()
                    engine_nursery.cancel_scope.cancel(reason="the daemon ends")
                self._audit.close({"sessions": self._sessions_ended, "executions": len(self._ended)})
                self._stopped.set()
                control_nursery.cancel_scope.cancel(reason="the daemon ends")
        finally:
            control_listener.remove(self._places.control_socket, self._places.signpost)

    # What its operator asks

    def configuration(self) -> dict[str, Any]:
        """The configuration in force, and where each value comes from."""
        return {
            "config": self._engine.config.as_public_dict(),
            "sources": self._sources,
            "paths": self._places.as_public_dict(),
        }

    def reload(self) -> dict[str, Any]:
        """Read the configuration again and use it, whole or not at all; reopen the log.

        Raises:
            ConfigError: it is not valid, or the log cannot be opened; nothing has changed.
        """
        self._notifier.reloading()
        try:
            loaded = self._loaded.load_again()
            self._reopen_log()
            update = self._engine.config.updated(loaded.config)
            changed = loaded.changes(update, self._loaded)
            if self._change_door(update.config) and "certfile" not in changed:
                changed.append("certfile")
            self._loaded = self._reports.loaded = loaded
            self._sources = {**loaded.sources, **{key: self._sources[key] for key in update.needs_restart}}
            self._engine.reconfigure(update.config, loaded.policy)
            self._engine.records.estimates.reconfigure(update.config)
            self._use_hooks(loaded)
            self._rates.reconfigure(update.config)
            self._log_output.redact(self._engine.gate.redactor)
            self._archive.notary.redactor = self._engine.gate.redactor
            self._log_output.set_level("debug" if update.config.debug else update.config.log_level)
        finally:
            self._notifier.ready(self._summary())
        log.info("reloaded", extra={"changed": changed, "needs_restart": update.needs_restart})
        return {"changed": changed, "needs_restart": list(update.needs_restart)}

    def _use_hooks(self, loaded: LoadedConfig) -> None:
        """Have the operator's hooks called from now on; what they need is imported when there are some."""
        if self._hooks is None and loaded.hooks and self._engine_nursery is not None:
            from ccexecd.hooks.register import Hooks  # noqa: PLC0415

            self._hooks = self._engine.preparation.hooks = Hooks(self._keeper, self._pump, self._engine.inherited)
            self._engine.listener_factories.append(self._hooks.listener)
            self._engine_nursery.start_soon(self._hooks.run)
        if self._hooks is not None:
            self._hooks.reconfigure(loaded.hooks, loaded.config.unset_environment)

    def _change_door(self, config: Config) -> bool:
        try:
            return self._door.reconfigure(self._budget.fitted(config))
        except OSError as error:
            key = "certfile" if config.certfile or config.keyfile else "allow_plaintext"
            raise ConfigError([Problem(key, self._sources[key], str(error))]) from error

    def _reopen_log(self) -> None:
        try:
            self._log_output.reopen()
        except OSError as error:
            problem = Problem(
                "log_file", self._sources["log_file"], f"cannot open {self._log_output.path}: {error.strerror}"
            )
            raise ConfigError([problem]) from error

    async def stop(self, drain: float | None, grace: float | None) -> Answer:
        """End the daemon; answered when all of its executions have ended. `drain` and `grace` are seconds."""
        self._ask_to_stop(drain, grace)
        await self._stopped.wait()
        ended = [
            {
                "execution_id": execution.id,
                "command": self._engine.gate.redactor.text(execution.spec.display),
                "reason": execution.outcome.reason.value if execution.outcome else None,
                "exit_code": execution.outcome.exit_code if execution.outcome else None,
            }
            for execution in self._ended
        ]
        return Answer({"ended": ended, "sessions": self._sessions_ended})

    # Coming and going

    def _say_ready(self) -> None:
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        sys.setswitchinterval(_SWITCH_INTERVAL)
        self._audit.record("started", {"pid": os.getpid(), "version": __version__, "addresses": self._door.addresses})
        log.info("listening", extra={"addresses": self._door.addresses, "pid": os.getpid()})
        self._notifier.ready(self._summary())
        self._ready(self._door.addresses[0])

    def _summary(self) -> str:
        return f"listening on {', '.join(self._door.addresses)}"

    def _ask_to_stop(self, drain: float | None = None, grace: float | None = None) -> None:
        """Begin the shutdown; a second call shortens it."""
        if self._stop_asked.is_set():
            self._draining.cancel(reason="told to stop twice")
            for execution in list(self._engine.live.values()):
                execution.hurry.cancel(reason="told to stop twice")
            self._engine.leftovers.hurry()
            return
        self._drain = self._engine.config.drain_timeout if drain is None else drain
        self._grace = grace
        self._stop_asked.set()

    async def _wind_down(self) -> None:
        """Refuse new executions, let running ones finish within the drain time, end the rest, and say farewell."""
        self._engine.draining = True
        self._door.stop_accepting()
        self._sessions_ended = len(self._engine.sessions)
        graces = [each.grace if self._grace is None else self._grace for each in self._engine.live.values()]
        longest = self._drain + max(graces, default=0.0) + self._engine.leftovers.longest_grace(self._grace)
        log.info("stopping", extra={"live_executions": len(self._engine.live), "drain": self._drain})
        self._notifier.stopping(f"ending {len(self._engine.live)} executions")
        self._notifier.extend(longest + 30)
        deadline = datetime.fromtimestamp(time.time() + longest, UTC)
        self._engine.gate.deadline = deadline.isoformat()
        self._door.announce("server.draining", {"deadline": deadline.isoformat()})
        running = list(self._engine.live.values())
        self._draining.relative_deadline = self._drain
        with self._draining:
            for execution in running:
                await execution.finished.wait()
        self._ended = await self._engine.end_all(self._grace)
        if self._hooks is not None:
            await self._hooks.finish()
        await self._door.farewell()

    async def _serve_operator(self, stream: trio.SocketStream) -> None:
        shared = control_connection.Shared(
            self._engine, operator_methods(self), self._groups, self._rates, self._refusals
        )
        await control_connection.serve(stream, shared)

    async def _heed_signals(self, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
            task_status.started()
            async for signum in received:
                if signum == signal.SIGHUP:
                    try:
                        self.reload()
                    except ConfigError as invalid:
                        log.warning("not reloaded: %s", invalid)
                else:
                    log.info("%s received", signal.Signals(signum).name)
                    self._ask_to_stop()

    async def _feed_watchdog(self) -> None:
        """Tell systemd that the event loop turns, as often as it asks for; not at all where it does not ask."""
        interval = self._notifier.watchdog_interval
        while interval is not None:
            self._notifier.watchdog()
            await trio.sleep(interval)


def run(
    loaded: LoadedConfig,
    places: Places,
    *,
    listen_fds: Mapping[str, list[int]],
    ready: Ready,
    umask: int,
    log_output: Log,
) -> int:
    """Run a daemon in this process until it has been stopped.

    Args:
        loaded: the configuration.
        places: where its files are.
        listen_fds: sockets that systemd has opened, by name.
        ready: called once, when both sockets answer.
        umask: of whoever started the daemon, for the programs that it runs.
        log_output: where the log goes.

    Returns:
        The exit status.

    Raises:
        OSError: it cannot come up; the text says what, where and what to do.
    """
    notifier = Notifier(os.environ)
    forget(os.environ)
    daemon = Daemon(
        loaded,
        places,
        listen_fds=listen_fds,
        ready=ready,
        umask=umask,
        environ=os.environ,
        notifier=notifier,
        log_output=log_output,
        budget=claim(),
    )
    try:
        trio.run(daemon.serve)
    except* OSError as group:
        raise _innermost(group) from None
    return 0


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
