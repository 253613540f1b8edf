"""The gate that every execution goes through: judged, put on record, and only then begun.

Owns the two records of an execution, the decision about it and its outcome, what is in them and what is kept out, and
what it means when nothing can be recorded. Must not start anything.
"""

import logging
import math
import time
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Protocol

from ccexecd.core.policy import RefusedError
from ccexecd.core.redaction import Redactor
from ccexecd.core.rules import Policy
from ccexecd.core.spec import Spec
from ccexecd.judgement import Judge, Ruling
from ccexecd.keys import Config
from ccexecd.process.execution import Execution
from ccexecd.process.leader import SpawnError, user_of
from ccexecd.storage.audit import Audit

log = logging.getLogger(__name__)

MAX_NAMES = 256
"""Names of environment variables in one record."""

MAX_NAME = 128
"""Characters of one of them."""

TURNED_AWAY_INTERVAL = 60.0
"""Seconds for which further refused entries at one door are only counted, after one that was recorded."""


class Refusal(Enum):
    """Why an execution was not admitted."""

    SESSION_LIMIT = "session limit"
    QUEUE_FULL = "queue full"
    CONFLICT = "idempotency conflict"
    NOT_ALLOWED = "not allowed"
    DRAINING = "draining"
    UNRECORDED = "audit unavailable"


class AdmissionError(Exception):
    """An execution is not admitted. Nothing of it exists.

    Attributes:
        refusal: which rule refused.
        facts: further facts for the client.
    """

    def __init__(self, refusal: Refusal, message: str, **facts: object) -> None:
        super().__init__(message)
        self.refusal = refusal
        self.facts = facts


class Claim(Protocol):
    """The session that asks for an execution, as far as it is recorded."""

    @property
    def id(self) -> str:
        """Its UUID."""

    @property
    def principal(self) -> str:
        """Name of the principal that it belongs to."""

    @property
    def peer(self) -> str:
        """Address of its connection."""


class Gate:
    """Judges executions and puts them on record.

    Args:
        config: the configuration in force; `reconfigure` replaces it.
        inherited: the environment that programs inherit.
        audit: where decisions and outcomes are recorded; None for no audit.
        rules: the policy in force; None for no policy.

    Attributes:
        judge: decides what may run.
        redactor: keeps secrets out of the record.
        deadline: when the daemon ends at the latest (ISO 8601), once it is shutting down; empty before.
    """

    def __init__(
        self, config: Config, inherited: Mapping[str, str], audit: Audit | None = None, rules: Policy | None = None
    ) -> None:
        self._inherited = inherited
        self._audit = audit
        self.deadline = ""
        self._turned_away: dict[str, tuple[int, float]] = {}  # door -> how many since it was told, and when it was
        self.reconfigure(config, rules)

    def reconfigure(self, config: Config, rules: Policy | None) -> None:
        """Use another configuration and policy from now on."""
        self._is_required = config.audit_required
        self._lanes = config.lane_limits()
        self.judge = Judge(config, rules, self._inherited)
        self.redactor = Redactor(config.redact)
        for warning in self.judge.warnings():
            log.warning("%s", warning)
        if self._audit is not None:
            self._audit.max_bytes, self._audit.max_files = config.audit_max_bytes, config.audit_files

    def ruling(self, claim: Claim, spec: Spec) -> Ruling:
        """Decide whether an execution may run, and as what.

        Args:
            claim: the session that asks.
            spec: what it asks for.

        Returns:
            The ruling, with the spec that is to be run.

        Raises:
            AdmissionError: it may not run.
        """
        try:
            ruling = self.judge.rule(spec, claim.principal)
            if ruling.spec.run_as is not None:
                user_of(ruling.spec.run_as)
        except SpawnError as error:
            raise AdmissionError(Refusal.NOT_ALLOWED, f"command not allowed: run_as: {error}") from None
        except RefusedError as refused:
            facts = {"environment": list(refused.environment)} if refused.environment else {}
            raise AdmissionError(Refusal.NOT_ALLOWED, f"command not allowed: {refused}", **facts) from None
        return ruling

    def admitted(self, claim: Claim, execution: Execution, ruling: Ruling) -> None:
        """Put on record that an execution is about to begin.

        Raises:
            AdmissionError: it cannot be recorded, and has to be: it must not begin.
        """
        facts = {"execution_id": execution.id, "decision": "allowed", "reason": ruling.reason}
        if ruling.spec.run_as is not None:
            facts["run_as"] = ruling.spec.run_as
        if ruling.spec.once is not None:
            facts["idempotency_key"] = self.redactor.text(ruling.spec.once.key)
        self._require_record(self._decision(claim, ruling.spec, facts, ruling.executable))

    def changed(self, claim: Claim, execution: Execution, hooks: tuple[str, ...]) -> None:
        """Put on record what the operator's hooks have made of an execution that is about to begin.

        Raises:
            AdmissionError: it cannot be recorded, and has to be.
        """
        facts = {"execution_id": execution.id, "decision": "changed", "reason": "hooks", "hooks": list(hooks)}
        self._require_record(self._decision(claim, execution.spec, facts))

    def _require_record(self, was_recorded: bool) -> None:
        if not was_recorded and self._is_required and self._audit is not None:
            text = f"nothing is executed that cannot be recorded (audit_required): {self._audit.problem}"
            raise AdmissionError(Refusal.UNRECORDED, text)

    def closed(self) -> AdmissionError:
        """The error for whoever asks for an execution while the daemon shuts down."""
        text = "the daemon is shutting down and takes no new commands"
        if not self.deadline:
            return AdmissionError(Refusal.DRAINING, text)
        return AdmissionError(Refusal.DRAINING, f"{text}; it ends by {self.deadline}", deadline=self.deadline)

    def admit_again(self, claim: Claim, execution: Execution) -> None:
        """Judge, and put on record, a held execution, which an earlier daemon had admitted and which is being released.

        Raises:
            AdmissionError: it may not run any more, or its lane, and so that lane's limit, is no longer configured.
        """
        spec = execution.spec
        try:
            self._require_lane(spec.lane)
            self.admitted(claim, execution, self.ruling(claim, spec))
        except AdmissionError as error:
            self.refused(claim, spec, error)
            raise

    def refused(self, claim: Claim, spec: Spec, error: AdmissionError) -> None:
        """Put on record that a request for an execution was not admitted."""
        self._decision(claim, spec, {"decision": "refused", "reason": self.redactor.text(str(error))})

    def ended(self, claim: Claim, execution: Execution) -> None:
        """Put on record how an execution that was admitted has ended."""
        outcome = execution.outcome
        if self._audit is None or outcome is None:
            return
        facts = {
            "execution_id": execution.id,
            "session_id": claim.id,
            "principal": claim.principal,
            "outcome": outcome.reason.value,
            "exit_code": outcome.exit_code,
            "signal": outcome.signal,
            "duration": execution.duration,
            "pid": execution.pid,
        }
        self._audit.record("outcome", {**facts, "error": self.redactor.text(outcome.error)} if outcome.error else facts)

    def asked(self, principal: str, peer: str, facts: Mapping[str, object]) -> None:
        """Put on record another request: to end an execution, to take over a session, to stop the daemon.

        Args:
            principal: name of the principal that asked.
            peer: address of its connection.
            facts: the record, as JSON values; with `decision`, and `reason` if that is a refusal.
        """
        if self._audit is not None:
            text = self.redactor.text  # a name is whatever somebody has sent
            told = {name: text(value) if isinstance(value, str) else value for name, value in facts.items()}
            self._audit.record("call", {"principal": principal, "peer": peer, **told})

    def turned_away(self, door: str, reason: str, peer: str) -> None:
        """Put on record that an entry was refused: one for each door and minute, with how many others there were.

        Somebody who may not even enter must not be able to fill the audit, and so push out of it what matters.

        Args:
            door: which one was tried.
            reason: why it stayed closed.
            peer: address of who tried.
        """
        if self._audit is None:
            return
        now = time.monotonic()
        unsaid, said_at = self._turned_away.get(door, (0, -math.inf))
        if now - said_at < TURNED_AWAY_INTERVAL:
            self._turned_away[door] = (unsaid + 1, said_at)
            return
        self._turned_away[door] = (0, now)
        facts = {"decision": "refused", "door": door, "reason": self.redactor.text(reason), "peer": peer}
        self._audit.record("entry", facts | ({"others": unsaid} if unsaid else {}))

    def _require_lane(self, lane: str) -> None:
        if lane and lane not in self._lanes:
            text = f"there is no lane {lane!r} any more; add it to the key lanes and reload, or drop this one"
            raise AdmissionError(Refusal.NOT_ALLOWED, text)

    def _decision(self, claim: Claim, spec: Spec, facts: Mapping[str, object], executable: str = "") -> bool:
        if self._audit is None:
            return True
        told = {
            "method": "execute",
            "principal": claim.principal,
            "peer": claim.peer,
            "session_id": claim.id,
            **facts,
            "executable": executable or self.judge.executable_of(spec),
            "command": self.redactor.text(spec.display) if spec.shell else self.redactor.words(spec.argv, spec.display),
            "shell": spec.shell,
            "cwd": spec.cwd or "/",
        }
        if spec.env:
            told["environment"] = _names(spec.env)
        if spec.unset:
            told["unset"] = _names(spec.unset)
        return self._audit.record("decision", told)


def _names(names: Iterable[str]) -> list[str]:
    """Shorten names of environment variables for a record, which never has their values."""
    listed = sorted(names)
    more = [f"and {len(listed) - MAX_NAMES} more"] if len(listed) > MAX_NAMES else []
    return [name[:MAX_NAME] for name in listed[:MAX_NAMES]] + more
