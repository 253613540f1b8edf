"""What may run on this machine: the allow-list and the policy, held against programs as they lie on the disk.

Owns the resolution of what a client asks for (program, directory, environment) and the order of the questions. A
command string that is judged is run without a shell, as the words that were judged; what cannot be judged is refused
wherever something has to be allowed. Must not know sessions, executions or any record: it is asked, and answers.
"""

import os
import shlex
from collections.abc import Mapping
from typing import Any

import attrs

from ccexecd.core import policy
from ccexecd.core.policy import RefusedError
from ccexecd.core.rules import Decision, Policy, Wish, is_wrapper, warnings_of
from ccexecd.core.spec import Spec
from ccexecd.keys import Config
from ccexecd.process import programs

__all__ = ["Judge", "RefusedError", "Ruling"]

MAX_WORDS = 1000
MAX_SIZE = 256 * 1024
"""Most words and characters of a command, names of its environment included, that are judged: each word is matched with
each pattern in the event loop, which takes some 0.1 s for as much as this and a hundred patterns. The longest word that
the kernel takes (execve(2), 128 KiB) fits in."""

MAX_EXPRESSED = 16 * 1024
"""Characters of a command beyond which regular expressions are not tried, since the event loop waits for them."""


@attrs.frozen
class Ruling:
    """The permission to run a command.

    Attributes:
        spec: what is to be run: as asked for, but without a shell if its words have been judged.
        reason: why it may run; empty if everything may.
        decision: the policy's decision; None if there is no policy.
        executable: the file that was judged; empty if none was.
    """

    spec: Spec
    reason: str = ""
    decision: Decision | None = None
    executable: str = ""


class Judge:
    """Decides what may run.

    Args:
        config: the configuration in force.
        rules: the policy in force; None for no policy.
        inherited: the environment that programs inherit.
    """

    def __init__(self, config: Config, rules: Policy | None, inherited: Mapping[str, str]) -> None:
        self._config = config
        self._rules = rules
        self._inherited = inherited
        self._path = os.defpath if "PATH" in config.unset_environment else inherited.get("PATH", os.defpath)

    def rule(self, spec: Spec, principal: str) -> Ruling:
        """Decide whether a command may run.

        Args:
            spec: the command.
            principal: name of the principal that asks.

        Raises:
            RefusedError: it may not run.
        """
        allowed = self._config.allowed_commands
        if allowed is None and self._rules is None:
            return Ruling(spec)
        spec = self._worded(spec, is_strict=allowed is not None or (self._rules or _NONE).default == "deny")
        if allowed is not None:
            policy.judge(spec.argv, self.changes_of(spec), allowed, self.resolve)
        if self._rules is None:
            return Ruling(spec, "allowed_commands allows it", executable=self.resolve(spec.argv[0]) or "")
        wish = self._wish(spec, principal)
        decision = self._rules.decide(wish, self.resolve)
        if not decision.allowed:
            raise DeniedError(decision)
        granted = (decision.rule.environment if decision.rule is not None else None) or ()
        policy.refuse_loaders(self.changes_of(spec), granted)
        run_as = decision.rule.run_as if decision.rule is not None else None
        return Ruling(attrs.evolve(spec, run_as=run_as), decision.reason, decision, wish.program)

    def explain(self, spec: Spec, principal: str) -> dict[str, Any]:
        """Return the decision with every step that led to it, as JSON values; takes the arguments of `rule`."""
        told: dict[str, Any] = {"principal": principal, "command": spec.display}
        try:
            ruling = self.rule(spec, principal)
        except RefusedError as refused:
            decision = refused.decision if isinstance(refused, DeniedError) else None
            told |= {"decision": "refused", "reason": str(refused)}
        else:
            decision = ruling.decision
            told |= {
                "decision": "allowed",
                "reason": ruling.reason or "everything may run",
                "run_as": ruling.spec.run_as,
            }
            told["runs"] = list(ruling.spec.argv)
        told["rule"] = str(decision.rule) if decision is not None and decision.rule is not None else None
        told["steps"] = [{"rule": rule, "miss": miss} for rule, miss in (decision.steps if decision else ())]
        return told | self._seen(spec) | {"warnings": self._warnings_about(told, spec)}

    def in_force(self) -> dict[str, Any]:
        """The allow-list, the policy and the warnings about them, as JSON values."""
        allowed = self._config.allowed_commands
        return {
            "allowed_commands": None if allowed is None else list(allowed),
            "policy_file": self._config.policy_file,
            "policy": None if self._rules is None else self._rules.as_public_dict(),
            "warnings": self.warnings(),
        }

    def warnings(self) -> list[str]:
        """Warnings about entries of the allow-list and the policy that may allow more than was meant."""
        own = warnings_of(self._config.allowed_commands or ())
        return own + (self._rules.warnings() if self._rules is not None else [])

    def changes_of(self, spec: Spec) -> dict[str, str]:
        """Return the variables that a client sets to another value than is inherited, or removes (empty value)."""
        withheld = self._config.unset_environment
        removed = {name: "" for name in spec.unset if name in self._inherited}
        added = spec.env.items()
        return removed | {name: text for name, text in added if name in withheld or self._inherited.get(name) != text}

    def resolve(self, program: str) -> str | None:
        """Return the real path of the program that a name or absolute path stands for; None if that is not certain."""
        if "/" not in program and not all(folder.startswith("/") for folder in self._path.split(os.pathsep)):
            return None  # a relative directory in PATH is another one from each `cwd`
        return programs.real(programs.found(program, self._path))

    def executable_of(self, spec: Spec) -> str:
        """Return the file that will be started, or empty; good for the record, not for decisions."""
        path = spec.env.get("PATH", "" if "PATH" in spec.unset else self._path) or os.defpath
        return programs.for_the_record(spec.argv[0], path, spec.cwd) if spec.argv else ""

    def _worded(self, spec: Spec, *, is_strict: bool) -> Spec:
        """Return a spec without a shell, with the words of its command string, if these can be told.

        Args:
            spec: what was asked for.
            is_strict: raise `RefusedError` if the words cannot be told; else the spec is returned as it is.
        """
        if not spec.shell:
            return spec
        try:
            argv = policy.words_of(spec.display)
        except RefusedError:
            if is_strict:
                raise
            return spec
        name = argv[0] if argv else ""
        is_program = ("/" not in name or name.startswith("/")) and self.resolve(name) is not None
        return attrs.evolve(spec, argv=argv, shell=False) if is_strict or is_program else spec

    def _wish(self, spec: Spec, principal: str) -> Wish:
        name = spec.argv[0] if spec.argv else ""
        policy.refuse_relative(name)
        path = programs.found(name, self._path) if name else None
        program = self.resolve(name)
        if path is None or program is None:
            raise RefusedError(f"{name!r} is no program that can be found and judged")
        environment = tuple(self.changes_of(spec))
        size = sum(map(len, spec.argv)) + sum(map(len, environment))
        if size > MAX_SIZE or len(spec.argv) + len(environment) > MAX_WORDS:
            raise RefusedError(f"more than {MAX_WORDS} words or {MAX_SIZE} characters are too much to be judged")
        folder = os.path.dirname(path)  # noqa: PTH120
        return Wish(
            argv=spec.argv,
            path=path,
            program=program,
            is_in_path=folder in self._path.split(os.pathsep),
            cwd=os.path.realpath(os.path.join("/", spec.cwd or "")),  # noqa: PTH118
            environment=environment,
            principal=principal,
            is_long=size > MAX_EXPRESSED,
        )

    def _seen(self, spec: Spec) -> dict[str, Any]:
        """Return what a spec was resolved to: words, executable, directory and changed environment names."""
        try:
            spec = self._worded(spec, is_strict=True)
        except RefusedError:
            words: list[str] | None = None
        else:
            words = list(spec.argv)
        program = self.resolve(words[0]) if words else None
        cwd = os.path.realpath(os.path.join("/", spec.cwd or ""))  # noqa: PTH118
        return {"words": words, "executable": program, "cwd": cwd, "environment": sorted(self.changes_of(spec))}

    def _warnings_about(self, told: Mapping[str, Any], spec: Spec) -> list[str]:
        """Return warnings about a command that is allowed although it runs other programs, which are not judged."""
        runs = told.get("runs") or [""]
        if told["decision"] == "allowed" and is_wrapper(runs[0]):
            what = (
                "a shell reads all of the string"
                if spec.shell and runs[0] == spec.argv[0]
                else "it runs what it is told"
            )
            return [f"{runs[0]} is allowed here, and {what}: nothing that it starts is judged"]
        return []


class DeniedError(RefusedError):
    """A policy denies a command.

    Attributes:
        decision: the policy's decision.
    """

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.reason)
        self.decision = decision


_NONE = Policy("allow")


def question(words: tuple[str, ...] | None, command: str | None, shell: str, **given: Any) -> Spec:
    """Return the spec of a command that is only asked about.

    Args:
        words: its words; None for a command string.
        command: its command string, if there are no words.
        shell: the shell that would run a command string.
        given: further attributes of the spec.
    """
    argv = words if command is None else (shell, "-c", command)
    return Spec(
        tuple(argv or ()), command if command is not None else shlex.join(words or ()), command is not None, **given
    )
