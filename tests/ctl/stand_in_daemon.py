"""A small program that starts like ccexecd: lock, fork, both doors, then success.

    stand_in_daemon.py --state-dir DIR [--port N] [--config FILE] [flags that are written down]

It writes its command line to DIR/started-PID, serves `status`, `config`, `health` and `stop`, and answers HTTP. What it
does wrong is chosen with --fault:
    refuse    print a reason and fail        dies      vanish after saying that it is ready
    door      answer HTTP with 503           deaf      ignore `stop`          stubborn  ignore TERM as well
    crash     die when told to stop          slow      take a second to get ready
    hang      never get ready
A file DIR/invalid makes it find its configuration wrong.
"""

import argparse
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from ccexecd import __version__
from ccexecd.pidfile import AlreadyRunningError, PidFile

parser = argparse.ArgumentParser()
parser.add_argument("--state-dir", type=Path, required=True)
parser.add_argument("--control-socket", type=Path)
parser.add_argument("--port", type=int, default=0)
parser.add_argument("--fault", default=os.environ.get("FAULT", ""))
parser.add_argument("--check", action="store_true")
arguments, _ = parser.parse_known_args()
place: Path = arguments.state_dir
path = arguments.control_socket or place / "control.sock"
place.mkdir(exist_ok=True)

if (place / "invalid").exists():
    sys.exit("ccexecd: max_session (file x.toml): unknown key; did you mean max_sessions?")
if arguments.check:
    sys.exit(0)
if arguments.fault == "refuse":
    sys.exit("ccexecd: cannot listen on 127.0.0.1:8003: address already in use\nhint: choose another with --port N")
lock = PidFile(place / "ccexecd.pid")
try:
    lock.acquire()
except AlreadyRunningError as error:
    sys.exit(f"ccexecd: {error}")
if arguments.fault == "hang":
    time.sleep(60)
if arguments.fault == "slow":
    time.sleep(1)

door = socket.create_server(("127.0.0.1", arguments.port))
control = socket.socket(socket.AF_UNIX)
path.unlink(missing_ok=True)
control.bind(str(path))
control.listen(64)
if os.fork():
    os._exit(0)
os.setsid()
lock.write()
for descriptor in (1, 2):
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
(place / f"started-{os.getpid()}").write_text(json.dumps({"argv": sys.argv[1:], "environ": dict(os.environ)}))
if arguments.fault == "dies":
    os._exit(1)
if arguments.fault == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def leave(code: int = 0) -> None:
    path.unlink(missing_ok=True)
    lock.release()
    os._exit(code)


def answer_http() -> None:
    status = "503 Service Unavailable" if arguments.fault == "door" else "200 OK"
    while True:
        connection, _ = door.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())


STATUS = {
    "pid": os.getpid(),
    "state": "running",
    "version": __version__,
    "address": f"127.0.0.1:{door.getsockname()[1]}",
    "pidfile": str(lock.path),
    "control_socket": str(path),
    "config_file": os.environ.get("CONFIG_FILE"),
}
CONFIG = {
    "port": 0,
    "max_sessions": 5,
    "debug": True,
    "session_timeout": 60.0,
    "log_level": "debug",
    "allowed_commands": ["ls", "cat"],
    "drain_timeout": 0.0,
    "process_cleanup_timeout": 1.0,
}
SOURCES = {
    "port": "flag --port",
    "max_sessions": "flag --max-sessions",
    "debug": "environment DEBUG",
    "log_level": "environment DEBUG",
    "session_timeout": "file /etc/x.toml",
    "allowed_commands": "environment ALLOWED_COMMANDS",
    "drain_timeout": "default",
    "process_cleanup_timeout": "default",
}
ENDED = [{"execution_id": "1f0c9b2e-full", "command": "sleep\n60", "reason": "shutdown", "exit_code": -15}]
RESULTS = {
    "status": STATUS,
    "health": {"status": "healthy"},
    "config": {"config": CONFIG, "sources": SOURCES},
    "stop": {"ended": ENDED, "sessions": 1},
    "execute": {"execution_id": "e", "status": "started"},
}

COMPLETED = b'{"jsonrpc":"2.0","method":"process.completed","params":{"exit_code":0,"reason":"exited"}}\n'


def converse(connection: socket.socket) -> None:
    with connection, connection.makefile("rb") as lines:
        for line in lines:
            request = json.loads(line)
            stopping = request["method"] == "stop"
            if stopping and arguments.fault in {"deaf", "stubborn"}:
                continue
            if stopping and arguments.fault == "crash":
                leave(1)
            answer = {"jsonrpc": "2.0", "id": request["id"], "result": RESULTS[request["method"]]}
            connection.sendall(json.dumps(answer).encode() + b"\n")
            if request["method"] == "execute":
                connection.sendall(COMPLETED)
            if stopping:
                (place / "stop").write_text(json.dumps(request["params"]))
                leave()


threading.Thread(target=answer_http, daemon=True).start()
signal.alarm(60)  # no test leaves one behind
while True:
    threading.Thread(target=converse, args=(control.accept()[0],), daemon=True).start()
