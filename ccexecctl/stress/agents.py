"""The agents that the self-test can run, Claude Code and its stand-in, and the command for each prompt.

Owns the prompts and the commands. Must not run anything.
"""

import sys
from typing import Protocol

from ccexecctl.stress import standin_agent


class Agent(Protocol):
    """An agent under test. Each method returns the command that has the agent do what the docstring says."""

    name: str
    """Its name in the report."""
    patience: float
    """Seconds that one reply may take."""
    hang_time: float
    """Time-out in seconds of the prompt `hang`."""
    least_words: int
    """Least number of words that counts as a reply of 1000 words; models do not count exactly."""

    def answer(self, word: str) -> list[str]:
        """Reply with a word, and nothing else."""

    def words(self) -> list[str]:
        """Write 1000 words."""

    def json(self, word: str) -> list[str]:
        """Reply with the object `{"answer": 42, "word": WORD}`, and nothing else."""

    def hang(self) -> list[str]:
        """Take longer than `hang_time`."""

    def fail(self) -> list[str]:
        """End with an error."""

    def tool(self, word: str) -> list[str]:
        """Have `echo WORD` run by a tool, and reply with what it printed."""

    def version(self) -> list[str]:
        """Tell the version."""


class StandIn:
    """The stand-in for Claude Code that comes with ccexecctl (`standin_agent`)."""

    name = "standin"
    patience = 60.0
    hang_time = 2.0
    least_words = standin_agent.LONG_WORDS

    def _ask(self, *words: str) -> list[str]:
        return [sys.executable, "-I", "-S", standin_agent.__file__, *words]

    def answer(self, word: str) -> list[str]:
        """See `Agent`."""
        return self._ask("answer", word)

    def words(self) -> list[str]:
        """See `Agent`."""
        return self._ask("words")

    def json(self, word: str) -> list[str]:
        """See `Agent`."""
        return self._ask("json", word)

    def hang(self) -> list[str]:
        """See `Agent`."""
        return self._ask("hang")

    def fail(self) -> list[str]:
        """See `Agent`."""
        return self._ask("fail")

    def tool(self, word: str) -> list[str]:
        """See `Agent`."""
        return self._ask("tool", word)

    def version(self) -> list[str]:
        """See `Agent`."""
        return self._ask("--version")

    def line(self) -> list[str]:
        """Print a line of more than 100,000 bytes, which a model cannot be made to write."""
        return self._ask("line")


class Claude:
    """Claude Code, as it is installed and logged in where the daemon runs.

    Args:
        program: its name or path.
    """

    name = "claude"
    patience = 300.0
    hang_time = 5.0
    least_words = 600

    def __init__(self, program: str = "claude") -> None:
        self._program = program

    def _ask(self, prompt: str, *options: str) -> list[str]:
        return [self._program, "-p", prompt, "--output-format", "stream-json", "--verbose", *options]

    def answer(self, word: str) -> list[str]:
        """See `Agent`."""
        return self._ask(f"Reply with exactly this word and nothing else: {word}")

    def words(self) -> list[str]:
        """See `Agent`."""
        return self._ask("Write an essay of 1000 words about the sea. Reply with the essay only.")

    def json(self, word: str) -> list[str]:
        """See `Agent`."""
        return self._ask(f'Reply with exactly this JSON object and nothing else: {{"answer": 42, "word": "{word}"}}')

    def hang(self) -> list[str]:
        """See `Agent`."""
        return self._ask("Write a novel of 200,000 words. Reply with all of it.")

    def fail(self) -> list[str]:
        """See `Agent`."""
        return self._ask("hello", "--no-such-option")

    def tool(self, word: str) -> list[str]:
        """See `Agent`."""
        return self._ask(f"Run `echo {word}` with the Bash tool and reply with its output.", "--allowedTools=Bash")

    def version(self) -> list[str]:
        """See `Agent`."""
        return [self._program, "--version"]
