"""Gets one task done: by as many attempts and questions as it takes, until the answer is read and judged.

Owns what follows from an answer: another attempt when the model is overloaded, another question when the reply is not
the JSON that was asked for, the judgement of a fresh agent if one is wanted. Must not know how an agent is started.
"""

import random
import time
import uuid
from collections.abc import Mapping
from typing import Any

import anyio
import attrs

from ccexecctl.api import json_reply, prompts
from ccexecctl.api.backoff import Backoff
from ccexecctl.api.client import Client
from ccexecctl.api.options import AgentOptions, Kind
from ccexecctl.api.reports import Reports
from ccexecctl.api.results import AgentResult, JsonReplyError, Validation
from ccexecctl.api.run import AgentRun
from ccexecctl.errors import RefusedError
from ccexecd.agents.verdict import Cause, Verdict
from ccexecd.protocol.errors import ErrorCode

PASSES = {Cause.RATE_LIMITED, Cause.OVERLOADED}
"""Causes of failures that pass with time, so that another attempt makes sense."""

GO_ON = "You were interrupted by an error of the model's API, which has passed. Go on where you were."
"""Prompt of another attempt by an agent that had already used tools: the task again would repeat what they did."""

RESET_JITTER = 5.0
"""Upper bound of a random delay in seconds after a limit has ended, so that not all clients come back at once."""


class TaskRun:
    """Gets one task done.

    Args:
        client: the client of the daemon.
        task: what is to be done.
        options: how it is to be done.

    Raises:
        UsageError: the task cannot be sent, or `json_schema` is not a JSON Schema.

    Attributes:
        result: the result so far; None before the end of the first execution.
        was_known: whether a request's idempotency key was known, and stood for an execution that had already ended.
    """

    def __init__(self, client: Client, task: str, options: AgentOptions) -> None:
        prompts.require_fit(task, options.prompt_limit)
        if options.json_schema is not None:
            json_reply.require_schema(options.json_schema)
        self.result: AgentResult | None = None
        self.was_known = False
        self._client = client
        self._task = task
        self._options = options
        self._reports = Reports(options)
        self._questions = 0
        self._warnings = prompts.ambiguities(task)
        self._amended: str | None = None

    async def do(self) -> AgentResult:
        """Do the task. Call it once.

        Returns:
            The result, also if the agent failed, timed out, or was cancelled by somebody else.

        Raises:
            JsonReplyError: neither the first reply nor the second is the JSON that was asked for.
            CtlError: no agent could be started.
        """
        for warning in self._warnings:
            await self._reports.tell(Kind.WARNING, warning)
        prompt = await self._amend() if self._options.amend_prompt else self._task
        if self._options.wants_json:
            result = await self._ask_for_json(prompt)
        else:
            result = await self._ask_plainly(prompt)
        if result.error is None and self._options.validation_prompt is not None:
            result = await self._judge(result, self._options.validation_prompt)
        await self._reports.tell(
            Kind.ENDED, f"done: {result.verdict}" if result.is_success else f"failed: {result.error}"
        )
        return result

    async def _amend(self) -> str:
        """Have a fresh agent rewrite the task. Returns the new text; the task itself if that failed."""
        alone = self._alone()
        result = await self._ask(prompts.amending(self._task), alone)
        if result.error is None and str(result.result or "").strip():
            self._amended = str(result.result).strip()
            return self._amended
        self._warnings += (f"the task could not be amended, and was given as it is: {result.error}",)
        return self._task

    async def _ask_plainly(self, prompt: str) -> AgentResult:
        if not self._options.expect_uuid:
            return await self._ask(prompt, self._options)
        key = self._options.idempotency_key  # a repeated call with it must send the same params, and so the same UUID
        expected = str(uuid.uuid4() if key is None else uuid.uuid5(uuid.NAMESPACE_URL, key))
        labels = {**(self._options.labels or {}), "expect_uuid": expected}
        asked = prompts.asking_for_uuid(prompt, expected)
        result = await self._ask(asked, attrs.evolve(self._options, labels=labels))
        if result.error is None and expected not in str(result.result):
            self._warnings += ("the reply lacks the UUID that it was asked to repeat",)
            return self._keep(result)
        return result

    async def _ask_for_json(self, task: str) -> AgentResult:
        schema = self._options.json_schema
        prompt = prompts.asking_for_json(task, schema)
        result = await self._ask(prompt, self._options)
        if result.error is not None:
            return attrs.evolve(result, result=None)
        raw = str(result.result)
        try:
            return self._keep(result, result=json_reply.read_reply(raw, schema))
        except json_reply.ReplyError as error:
            problem = str(error)
        await self._reports.tell(Kind.RETRY, f"asks again: {problem}")
        if result.session_id:
            question = prompts.asking_again(problem)
            again = await self._ask(question, attrs.evolve(self._options, resume=result.session_id))
        else:
            again = await self._ask(prompts.asking_afresh(prompt, raw, problem), self._options)
        if again.error is not None:
            return attrs.evolve(again, result=None)
        raw = str(again.result)
        try:
            return self._keep(again, result=json_reply.read_reply(raw, schema))
        except json_reply.ReplyError as error:
            message = f"the reply is not the JSON that was asked for: {error}; it begins: {raw[:200]!r}"
            advice = "say more plainly what is wanted, or ask for a simpler schema"
            failed = self._keep(again, result=None, error=message, verdict="not_json", suggestion=advice)
            raise JsonReplyError(failed, raw, str(error)) from error

    async def _judge(self, result: AgentResult, validation_prompt: str) -> AgentResult:
        prompt = prompts.judging(validation_prompt, self._task, result.output)
        asked = prompts.asking_for_json(prompt, prompts.VERDICT_SCHEMA)
        verdict = await self._ask(asked, self._alone())
        try:
            said: Mapping[str, Any] = json_reply.read_reply(str(verdict.result), prompts.VERDICT_SCHEMA)
        except json_reply.ReplyError as error:
            why = f"nobody could judge the answer: {verdict.error or error}"
            return self._keep(result, error=why, verdict="not_validated", suggestion="ask again, or check it yourself")
        validation = Validation(said["is_valid"], said["reason"], verdict.execution_uuid)
        if validation.is_valid:
            return self._keep(result, validation=validation)
        why = f"the answer was judged to be wrong: {validation.reason}"
        advice = "the answer is in .output; change the task, or the validation_prompt"
        return self._keep(result, validation=validation, error=why, verdict="not_valid", suggestion=advice)

    def _alone(self) -> AgentOptions:
        """Return options for a fresh agent that rewrites a task or judges an answer: without tools, not printed."""
        return attrs.evolve(
            self._options,
            resume=None,
            allowed_tools=(),
            permission_mode=None,
            stream=False,
            arguments=(),
            max_turns=None,
        )

    async def _ask(self, prompt: str, options: AgentOptions) -> AgentResult:
        """Ask an agent, and start it again after a failure that passes, as often as `retries` allows."""
        self._questions += 1
        retries = self._options.retries
        delays = Backoff(retries.first, retries.longest).delays()
        for attempt in range(retries.most + 1):
            run = AgentRun(
                self._client, self._task, self._keyed(options, attempt), prompt=prompt, reports=self._reports
            )
            try:
                result = await self._follow(run)
            except RefusedError as refused:
                if refused.code != ErrorCode.QUEUE_FULL or attempt == retries.most:
                    raise
                await self._pause("the daemon's queue is full", _retry_after(refused, next(delays)))
                continue
            verdict = run.record.verdict
            if result.error is None or verdict.cause not in PASSES or attempt == retries.most:
                break
            delay = _delay(verdict, next(delays), retries.patience)
            if delay is None:
                return self._keep(result, suggestion=f"{result.suggestion} It ends at {_moment(verdict.resets_at)}.")
            await self._pause(verdict.cause.value, delay)
            if run.record.conversation.tool_uses and result.session_id:
                prompt, options = GO_ON, attrs.evolve(options, resume=result.session_id)
        return result

    async def _pause(self, why: str, delay: float) -> None:
        await self._reports.tell(Kind.RETRY, f"{why}: tries again in {delay:.0f} s")
        await anyio.sleep(delay)

    def _keyed(self, options: AgentOptions, attempt: int) -> AgentOptions:
        """Return options with an idempotency key for one execution, derived from the task's key if it has one."""
        key = self._options.idempotency_key
        which = f"{self._questions}.{attempt}"
        return options if key is None else attrs.evolve(options, idempotency_key=f"{key}/{which}")

    async def _follow(self, run: AgentRun) -> AgentResult:
        """Follow one execution to its end. Returns its result, with the figures of the earlier ones added."""
        before = self.result
        try:
            async with run:
                async for _ in run:
                    pass
        finally:
            if run.execution_uuid:
                self.was_known |= run.record.was_known
                self.result = self._sum(before, run.result)
        return self.result if self.result is not None else run.result

    def _sum(self, before: AgentResult | None, latest: AgentResult) -> AgentResult:
        """Return the latest result, with the figures of the executions before it added."""
        kept = attrs.evolve(
            latest, warnings=tuple(dict.fromkeys((*self._warnings, *latest.warnings))), amended_task=self._amended
        )
        if before is None:
            return kept
        costs = [each.cost for each in (before, latest) if each.cost is not None]
        return attrs.evolve(
            kept,
            timestamp=before.timestamp,
            execution_time=before.execution_time + latest.execution_time,
            usage=before.usage.plus(latest.usage),
            cost=sum(costs) if costs else None,
            files_created=tuple(dict.fromkeys((*before.files_created, *latest.files_created))),
            attempts=before.attempts + 1,
            turns=before.turns + latest.turns,
        )

    def _keep(self, result: AgentResult, /, **changes: Any) -> AgentResult:
        """Return a result with changes, and with the figures of all executions; it becomes the task's result."""
        total = self.result or result
        self.result = attrs.evolve(
            result,
            timestamp=total.timestamp,
            execution_time=total.execution_time,
            usage=total.usage,
            cost=total.cost,
            attempts=total.attempts,
            turns=total.turns,
            warnings=tuple(dict.fromkeys((*total.warnings, *self._warnings))),
            amended_task=self._amended,
            **changes,
        )
        return self.result


def _delay(verdict: Verdict, grown: float, patience: float) -> float | None:
    """Return the seconds until the next attempt; None if the limit ends after more than `patience` seconds."""
    if verdict.resets_at is None:
        return grown
    until = verdict.resets_at - time.time()
    if until > patience:
        return None
    return max(until, 0.0) + random.uniform(0.0, RESET_JITTER)  # noqa: S311  # spreads load, guards nothing


def _retry_after(refused: RefusedError, grown: float) -> float:
    """Return the seconds to wait: those that the daemon asks for, or the grown delay if that is longer."""
    told = refused.data.get("retry_after") if isinstance(refused.data, dict) else None
    return max(grown, float(told)) if isinstance(told, int | float) else grown


def _moment(since_epoch: float | None) -> str:
    from datetime import UTC, datetime  # noqa: PLC0415

    return datetime.fromtimestamp(since_epoch or 0.0, UTC).strftime("%Y-%m-%d %H:%M UTC")
