// A command runner over WebSocket, as one writes it by hand with ws and child_process: one notification for each piece
// of output, signals to the process group, and nothing else (no supervision, no record, no access control).
//
// PORT is where it listens. HIGH_WATER, in bytes, makes it stop reading a command's output while more than that waits
// to be sent on the connection; without it whatever the client does not take waits in memory.
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { WebSocketServer } from 'ws';

const highWater = Number(process.env.HIGH_WATER ?? Infinity);
const verbs = {
  PAUSE: ['SIGSTOP', 'paused'],
  RESUME: ['SIGCONT', 'resumed'],
  CANCEL: ['SIGTERM', 'cancelled'],
};

class Client {
  constructor(socket) {
    this.socket = socket;
    this.child = null;
    socket.on('message', (text) => this.receive(text));
    socket.on('close', () => this.signal('SIGKILL'));
    this.notify('connected', { session_id: randomUUID() });
  }

  send(message, sent) {
    if (this.socket.readyState === this.socket.OPEN) {
      this.socket.send(JSON.stringify({ jsonrpc: '2.0', ...message }), sent);
    }
  }

  notify(method, params, sent) {
    this.send({ method, params }, sent);
  }

  refuse(id, code, message) {
    this.send({ id, error: { code, message } });
  }

  receive(text) {
    let request;
    try {
      request = JSON.parse(text);
    } catch {
      return this.refuse(null, -32700, 'not JSON');
    }
    if (request.method === 'execute') return this.execute(request);
    if (request.method === 'control') return this.control(request);
    return this.refuse(request.id, -32601, 'no such method');
  }

  execute({ id, params }) {
    if (this.child) return this.refuse(id, -32602, 'a process is already running');
    const child = spawn(params.command, { shell: '/bin/sh', detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
    child.on('error', (error) => this.refuse(id, -32006, error.message));
    if (child.pid === undefined) return undefined;
    this.child = child;
    this.send({ id, result: { status: 'started', pid: child.pid, pgid: child.pid } });
    this.forward('stdout', child.stdout);
    this.forward('stderr', child.stderr);
    child.on('close', (code, signal) => {
      this.child = null;
      const status = code === 0 ? 'completed' : 'failed';
      this.notify('process.completed', { status, exit_code: code ?? -1, signal, pid: child.pid });
    });
    return undefined;
  }

  forward(type, stream) {
    const goOn = () => {
      if (stream.isPaused() && this.socket.bufferedAmount <= highWater / 2) stream.resume();
    };
    stream.setEncoding('utf8');
    stream.on('data', (data) => {
      this.notify('process.output', { type, data, truncated: false }, highWater === Infinity ? undefined : goOn);
      if (this.socket.bufferedAmount > highWater) stream.pause();
    });
  }

  control({ id, params }) {
    const [signal, status] = verbs[params.type] ?? [];
    if (!signal) return this.refuse(id, -32602, 'no such control');
    if (!this.child) return this.refuse(id, -32003, 'nothing is running');
    this.signal(signal);
    this.send({ id, result: { status } });
    return this.notify(`process.${status}`, { status, pid: this.child.pid });
  }

  signal(name) {
    try {
      if (this.child) process.kill(-this.child.pid, name);
    } catch (error) {
      if (error.code !== 'ESRCH') throw error;
    }
  }
}

const server = new WebSocketServer({
  host: '127.0.0.1',
  port: Number(process.env.PORT),
  path: '/ws/mcp',
  maxPayload: 10 << 20,
  perMessageDeflate: false,
});
server.on('connection', (socket) => new Client(socket));
