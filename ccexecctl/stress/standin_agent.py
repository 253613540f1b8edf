"""A stand-in for Claude Code, which needs no installation and costs nothing: `python standin_agent.py SCENARIO [WORD]`.

Owns the form of its output: events as `claude --output-format stream-json` prints them, one JSON object in a line. Must
not need anything but the standard library: no network, no files.
"""

import json
import os
import subprocess
import sys
import uuid

SESSION = str(uuid.uuid4())
LONG_WORDS = 1000
LINE_BYTES = 100_000
FAILED = 1


def event(kind: str, **fields: object) -> None:
    """Print one event, at once."""
    print(json.dumps({"type": kind, **fields, "session_id": SESSION}), flush=True)


def say(text: str) -> None:
    """Print an answer of the model."""
    event("assistant", message={"role": "assistant", "content": [{"type": "text", "text": text}]})


def result(text: str, *, subtype: str = "success", is_error: bool = False) -> None:
    """Print the last event, the result."""
    event("result", subtype=subtype, is_error=is_error, result=text, num_turns=1, total_cost_usd=0.0)


def answer(text: str) -> int:
    """Answer with a text. Returns the exit code."""
    say(text)
    result(text)
    return 0


def hang() -> int:
    """Never end, with a child process that does not end either."""
    with subprocess.Popen(["sleep", "3600"]) as child:  # noqa: S607  # PATH's, as an agent's own command would be
        event("system", subtype="status", waits_for=child.pid)
    return FAILED


def fail() -> int:
    """End as Claude Code does when its API refuses."""
    print("API Error: 500 internal server error", file=sys.stderr, flush=True)
    result("API Error: 500", subtype="error_during_execution", is_error=True)
    return FAILED


def use_tool(word: str) -> int:
    """Use a tool that runs a program, and answer with what the program printed."""
    use = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": f"echo {word}"}}
    event("assistant", message={"role": "assistant", "content": [use]})
    echo = ["echo", word]
    printed = subprocess.run(echo, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603  # its own
    done = {"type": "tool_result", "tool_use_id": "toolu_1", "content": printed, "is_error": False}
    event("user", message={"role": "user", "content": [done]})
    return answer(printed)


def main(words: list[str]) -> int:
    """Run one scenario. Returns the exit code."""
    if words == ["--version"]:
        print("stand-in 1.0 (Claude Code)")
        return 0
    scenario, word = (*words, "")[:2]
    event("system", subtype="init", cwd=os.environ.get("PWD", "/"), tools=["Bash"], model="stand-in")
    texts = {
        "answer": word,
        "words": " ".join(f"word{number}" for number in range(LONG_WORDS)),
        "json": json.dumps({"answer": 42, "word": word}),
        "line": "x" * LINE_BYTES,
    }
    if scenario == "tool":
        return use_tool(word)
    return answer(texts[scenario]) if scenario in texts else {"hang": hang, "fail": fail}[scenario]()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
