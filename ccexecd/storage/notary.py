"""Makes the receipt of each execution that has ended.

Theory of operation. Executions are attested in the archive's thread, in the same step that writes them into the
history: each output is digested from disk, and the receipts of all that have ended since the last step are written
together. Digests of large outputs go on in the following steps, `BUDGET` bytes at a time, so that the history is not
held up. The history knows the number of each receipt. An execution that has none yet when its daemon is killed gets one
from the next daemon; that receipt says so.

Owns the content of a receipt, and which executions wait for one. Must not know how receipts are kept.
"""

import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Generator, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
import orjson

from ccexecd.core.evidence import LONGEST_REPLY, asked_of, final_result, repeats
from ccexecd.core.redaction import Redactor
from ccexecd.storage.digests import digested
from ccexecd.storage.history import WHOLE_COMMAND, Record
from ccexecd.storage.plain_file import open_plain
from ccexecd.storage.receipts import Receipts

log = logging.getLogger(__name__)

BUDGET = 32 * 1024 * 1024
"""Bytes that one step digests: 20 to 100 ms."""

RETRY = 5.0
"""Seconds from a failed write of receipts to the next attempt."""

MOST_WAITING = 10_000
"""Executions that wait for a receipt in memory; those beyond that get theirs from the next daemon."""

NONE_WANTED = 0
"""Stands in the history for "gets no receipt": receipts were off when the execution ended, or did not exist yet."""

AT_THE_END, AT_RECOVERY = "at the end", "at recovery"
"""Values of a receipt's field `made`: written by the daemon that ran the execution, or by a later one."""

_TOLD = (
    "execution_id", "session_id", "principal", "command", "argv", "argv_sha256", "cwd", "created_at", "started_at",
    "finished_at", "duration", "exit_code", "signal", "reason", "limit", "pid", "stdout_bytes", "stderr_bytes",
    "dropped_bytes",
)  # fmt: skip
"""Fields of an execution's description that its receipt repeats, besides its labels."""

_MOMENTS = ("started_at", "finished_at")  # a log has these by its file system's coarser clock only, if at all
_VERDICT = ("cause", "is_success")  # fields of an agent's verdict that a receipt repeats
_LABELS = 4096  # bytes of labels, as JSON, that a receipt holds; if there are more, it tells only how many labels
_READ = 1024 * 1024

Steps = Generator[int, None, dict[str, Any]]


class Notary:
    """Makes receipts.

    Args:
        receipts: the files that they are written to.
        outputs: directory in which each execution's output has a directory.

    Attributes:
        receipts: the files that they are written to.
        redactor: removes secrets from receipts, since these are handed out.
        problem: why no receipts can be written; empty while they can.
    """

    def __init__(self, receipts: Receipts, outputs: Path) -> None:
        self.receipts = receipts
        self.problem = ""
        self.redactor = Redactor()
        self._outputs = outputs
        self._waiting: OrderedDict[str, tuple[Record, str]] = OrderedDict()
        self._begun: tuple[Record, str, Steps] | None = None
        self._numbered: dict[str, int] = {}  # execution id -> receipt's number, until the history has taken it
        self._retry_at = 0.0

    @property
    def is_settled(self) -> bool:
        """Whether nothing waits that could be done now: while there is a problem, waiting receipts do not count."""
        return not self._numbered and (bool(self.problem) or not (self._waiting or self._begun))

    def status(self) -> dict[str, str | None]:
        """`{directory, head, problem}`: head is this daemon's last record (`number:hash`), None before the first."""
        head = str(self.receipts.head) if self.receipts.head.n else None
        return {"directory": str(self.receipts.directory), "head": head, "problem": self.problem or None}

    def attest(self, records: Sequence[Record], *, wanted: bool = True) -> dict[str, int]:
        """Write receipts for executions that have just ended, and go on with those that wait.

        Args:
            records: the executions that have just ended.
            wanted: whether these get a receipt.

        Returns:
            Execution id -> number of its receipt, for all that the history does not have yet. Call `noted` once it has
            them.
        """
        for record in records:
            if not wanted:
                self._numbered[record.id] = NONE_WANTED
            elif record.id not in self._numbered and not (self._begun and self._begun[0].id == record.id):
                self._wait(record, AT_THE_END)
        if time.monotonic() >= self._retry_at:
            try:
                self._go_on()
            except OSError as error:
                self._has_failed(error)
            else:
                self._retry_at, self.problem = 0.0, ""
        return self._numbered

    def noted(self) -> None:
        """Note that the history has the numbers that `attest` returned."""
        self._numbered = {}

    def recover(self, records: Sequence[Record], *, everywhere: bool) -> list[Record]:
        """Take on executions of an earlier daemon that have no receipt as far as the history knows.

        Args:
            records: those executions; all have ended.
            everywhere: whether to look through all receipts, since the history is new and knows of none.

        Returns:
            The records of those that have a receipt after all, corrected by what it tells.
        """
        try:
            known = self.receipts.having({record.id for record in records}, everywhere=everywhere)
        except OSError as error:  # they stay without one until the next start
            self._has_failed(error)
            return []
        self._numbered |= {name: receipt.head.n for name, receipt in known.items()}
        for record in records:
            if record.id not in known and record.id not in self._waiting:
                self._wait(record, AT_RECOVERY)
        return [_as_attested(record, known[record.id].fields) for record in records if record.id in known]

    def _wait(self, record: Record, made: str) -> None:
        self._waiting[record.id] = (record, made)
        while len(self._waiting) > MOST_WAITING:
            self._waiting.popitem(last=False)

    def _go_on(self) -> None:
        """Digest outputs, `BUDGET` bytes at most, and write the receipts of those that are done."""
        done: list[tuple[Record, dict[str, Any]]] = []
        left = BUDGET
        while left > 0 and (self._begun or self._waiting):
            if self._begun is None:
                _, (record, made) = self._waiting.popitem(last=False)
                self._begun = (record, made, self._digested(record))
            record, made, steps = self._begun
            try:
                left -= next(steps)
            except StopIteration as whole:
                done.append((record, self._receipt(record, made, whole.value)))
                self._begun = None
        if done:
            try:
                numbers = self.receipts.write([receipt for _, receipt in done])
            except OSError:
                self._waiting |= {record.id: (record, receipt["made"]) for record, receipt in done}
                raise
            self._numbered |= {record.id: number for (record, _), number in zip(done, numbers, strict=True)}

    def _digested(self, record: Record) -> Steps:
        """Digest an output in steps; if it cannot be read, the result says so under `unreadable`."""
        if not record.output_bytes:
            return {}
        try:
            return (yield from digested(self._outputs / record.id))
        except OSError as error:
            log.warning("the output of execution %s cannot be digested: %s", record.id, error)
            return {"unreadable": error.strerror or "cannot be read"}

    def _receipt(self, record: Record, made: str, files: dict[str, Any]) -> dict[str, Any]:
        known = record.description
        labels = known.get("labels", {})
        short = len(orjson.dumps(labels)) <= _LABELS
        told = {name: known[name] for name in _TOLD if known.get(name) is not None}
        told |= {"command": self.redactor.text(known["command"]), "command_sha256": command_digest(known)}
        told |= {"argv": self.redactor.listed(known["argv"])} if "argv" in known else {}
        told |= agent_of(known)
        asked = asked_of(labels, record.id)
        reply = {"asked": asked, "repeated": has_repeated(self._outputs / record.id, asked)} if asked else {}
        return {
            "made": made,
            **told,
            "exit_code": known.get("exit_code"),
            "labels": labels if short else {"…": str(len(labels))},
            **reply,
            "output": files,
        }

    def _has_failed(self, error: Exception) -> None:
        if not self.problem:
            log.error("receipts cannot be written: %s", error)
        self.problem = str(error)
        self._retry_at = time.monotonic() + RETRY


def _as_attested(record: Record, receipt: Mapping[str, Any]) -> Record:
    """An execution's record, corrected by its receipt: its moments only or, if it left no log, all that is told."""
    names = _MOMENTS if WHOLE_COMMAND in record.description else (*_TOLD, "labels")
    told = {name: receipt[name] for name in names if name in receipt}
    try:
        end = datetime.fromisoformat(told["finished_at"]).timestamp()
    except (KeyError, TypeError, ValueError):  # no receipt of ours looks like that
        return record
    completion = dict(record.completion or {})
    completion |= {name: told[name] for name in completion if name in told}
    return attrs.evolve(record, finished_at=end, description={**record.description, **told}, completion=completion)


def command_digest(known: Mapping[str, Any]) -> str:
    """SHA-256 of an execution's command and words.

    Args:
        known: the execution's description, or its receipt.
    """
    return hashlib.sha256(orjson.dumps([known.get("command"), known.get("argv")])).hexdigest()


def agent_of(known: Mapping[str, Any]) -> dict[str, Any]:
    """The field `agent` of a receipt, made from an execution's description; empty if it was no agent."""
    agent = known.get("agent") or {}
    verdict = agent.get("verdict") or {}
    told = {"name": agent.get("name"), "model": agent.get("model"), **{key: verdict.get(key) for key in _VERDICT}}
    return {"agent": told} if agent else {}


def has_repeated(directory: Path, uuid: str) -> bool:
    """Whether an output repeats a UUID: in an agent's final result, if there is one, else anywhere on stdout.

    Args:
        directory: the execution's directory in the spool.
        uuid: the UUID that was to be repeated.

    Returns:
        Whether it does; False also if there is no output that can be read.
    """
    try:
        with open(open_plain(directory / "stdout"), "rb") as stream:  # noqa: PTH123  # a descriptor
            size = stream.seek(0, 2)
            stream.seek(max(0, size - LONGEST_REPLY))
            result = final_result(stream.read())
            if result is not None:
                return repeats(uuid, [result.encode(errors="replace")])
            stream.seek(0)
            return repeats(uuid, _parts(stream.read))
    except OSError:
        return False


def _parts(read: Any) -> Iterator[bytes]:
    while part := read(_READ):
        yield part
