#!/usr/bin/env python3
"""A stand-in for the Claude Code command line, for machines without npm.

It takes the flags that the tests give, asks the same API, prints the same events, and has the habits that matter to
whoever runs it: lines as long as the answer, `type` late in the result, a Bash tool whose processes live in a session
of their own and are left alone when it is told to end, and errors that look like success but for `is_error`.
"""

import argparse
import http.client
import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from urllib.parse import urlsplit

SESSION = str(uuid.uuid4())

MODEL = "claude-standin"


class ApiError(Exception):
    """The API answered with an error; the arguments are its HTTP status and its text."""


def show(**event):
    """Print one event on a line of its own."""
    print(json.dumps(event, separators=(",", ":"), ensure_ascii=False), flush=True)


def ask(messages):
    """One request: yields the events of the streamed answer."""
    api = urlsplit(os.environ["ANTHROPIC_BASE_URL"])
    connection = http.client.HTTPConnection(api.hostname, api.port)
    body = json.dumps({"model": MODEL, "max_tokens": 1000, "stream": True, "messages": messages, "tools": []})
    connection.request("POST", "/v1/messages", body, {"x-api-key": os.environ["ANTHROPIC_API_KEY"]})
    response = connection.getresponse()
    if response.status != 200:
        raise ApiError(response.status, json.load(response)["error"]["message"])
    for line in response:
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


def answer(messages, *, partial):
    """One turn of the assistant: its content block and why it stopped."""
    block, streamed, stop_reason = {}, [], None
    for event in ask(messages):
        if partial:
            show(type="stream_event", event=event, session_id=SESSION, uuid=str(uuid.uuid4()))
        match event["type"]:
            case "content_block_start":
                block = event["content_block"]
            case "content_block_delta":
                streamed.append(event["delta"].get("text") or event["delta"].get("partial_json"))
            case "message_delta":
                stop_reason = event["delta"]["stop_reason"]
    whole = "".join(streamed)
    return {**block, **({"text": whole} if block["type"] == "text" else {"input": json.loads(whole)})}, stop_reason


def bash(use):
    """Run a tool command as the real one does: in a session of its own."""
    command = use["input"]["command"]
    done = subprocess.run(["bash", "-c", command], check=False, capture_output=True, text=True, start_new_session=True)
    return {"type": "tool_result", "tool_use_id": use["id"], "content": done.stdout + done.stderr}


def converse(prompt, *, partial):
    """Ask and act until the assistant has nothing more to do; gives its last words."""
    messages = [{"role": "user", "content": prompt}]
    while True:
        block, stop_reason = answer(messages, partial=partial)
        message = {"role": "assistant", "content": [block]}
        show(type="assistant", message={**message, "model": MODEL}, session_id=SESSION, uuid=str(uuid.uuid4()))
        if stop_reason != "tool_use":
            return block["text"]
        reply = {"role": "user", "content": [bash(block)]}
        show(type="user", message=reply, session_id=SESSION, uuid=str(uuid.uuid4()))
        messages += [message, reply]


def main():
    """Run one prompt to its result. The exit code is 1 when the API failed."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("-p", dest="prompt", nargs="?")
    parser.add_argument("--output-format", choices=["stream-json"], required=True)
    parser.add_argument("--verbose", action="store_true", required=True)
    parser.add_argument("--include-partial-messages", action="store_true")
    parser.add_argument("--allowedTools")
    parser.add_argument("--model")
    parser.add_argument("--permission-mode")
    parser.add_argument("--resume", help="the conversation is not known here: only that it is asked for")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    show(type="system", subtype="init", cwd=str(Path.cwd()), session_id=SESSION, tools=["Bash"], model=MODEL)
    status = None
    try:
        result = converse(arguments.prompt or sys.stdin.read(), partial=arguments.include_partial_messages)
    except ApiError as error:
        status, text = error.args
        result = f"API Error: {status} {text}"
    ending = {"is_error": status is not None, "api_error_status": status, "result": result, "session_id": SESSION}
    show(subtype="success", **ending, type="result")
    sys.exit(0 if status is None else 1)


if __name__ == "__main__":
    main()
