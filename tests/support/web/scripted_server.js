// A server that does what a test says, over real sockets: cut in the middle of an event, refuse, fall silent.

import http from "node:http";

/**
 * Answers requests by handlers, each of which is for one request: the first for a path and method `when` matches, in the
 * order in which they were given. What nobody expects is answered with 500 and kept in `surprises`.
 */
export class ScriptedServer {
  requests = [];
  surprises = [];
  #handlers = [];
  #waiting = [];
  #server = http.createServer((request, response) => this.#handle(request, response));

  static async start() {
    const server = new ScriptedServer();
    await new Promise((resolve) => server.#server.listen(0, "127.0.0.1", resolve));
    server.url = `http://127.0.0.1:${server.#server.address().port}`;
    return server;
  }

  /** Handlers for requests whose path begins like this; an array for one after the other, a function for all. */
  on(path, handlers) {
    const list = Array.isArray(handlers) ? handlers : null;
    this.#handlers.push({ path, next: () => (list ? list.shift() : handlers) });
    return this;
  }

  /** Until as many requests for this path have come. */
  async came(path, count = 1) {
    for (;;) {
      const found = this.requests.filter((request) => request.path === path);
      if (found.length >= count) return found;
      await new Promise((resolve) => this.#waiting.push(resolve));
    }
  }

  get openSockets() {
    return new Promise((resolve) => this.#server.getConnections((_, count) => resolve(count)));
  }

  async close() {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    this.#server.closeAllConnections();
    await closed;
  }

  async #handle(request, response) {
    const url = new URL(request.url, "http://x");
    const seen = { path: url.pathname, query: url.searchParams, headers: request.headers, method: request.method };
    seen.left = new Promise((resolve) => response.on("close", resolve));
    this.requests.push(seen);
    this.#waiting.splice(0).forEach((wake) => wake());
    for (const { path, next } of this.#handlers) {
      if (path !== url.pathname) continue;
      const handler = next();
      if (handler) return await handler(response, seen);
    }
    this.surprises.push(request.url);
    problem(500, "nobody expected this")(response);
  }
}

// ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────

export const json = (body, headers = {}) => (response) => {
  response.writeHead(200, { "Content-Type": "application/json", ...headers }).end(JSON.stringify(body));
};

export const problem = (status, detail, headers = {}) => (response) => {
  const body = { type: "about:blank", title: http.STATUS_CODES[status], status, detail, request_id: "r" };
  response.writeHead(status, { "Content-Type": "application/problem+json", ...headers }).end(JSON.stringify(body));
};

export const html = (status) => (response) => {
  response.writeHead(status, { "Content-Type": "text/html" }).end("<html><h1>Bad Gateway</h1></html>");
};

export const nothing = (response) => response.writeHead(204).end();

export const poll = (frames, { next, head = next, ended = null }) => json({ data: frames, next, head, ended });

/** An event stream that a test writes. */
export class Sse {
  constructor(response, { retry = 10 } = {}) {
    this.response = response;
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    response.write(`: open\nretry: ${retry}\n`);
  }

  frame(id, event) {
    return this.raw(`id: ${id}\nevent: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`);
  }

  raw(text) {
    this.response.write(text);
    return this;
  }

  hello(id, { resumed = false, heartbeat = 15 } = {}) {
    return this.frame(id, { type: "hello", epoch: "e", head: 99, oldest: 1, after: 0, resumed, heartbeat_seconds: heartbeat });
  }

  live(id, replayed = 0) {
    return this.frame(id, { type: "live", replayed });
  }

  /** Events of these numbers. */
  events(...seqs) {
    seqs.forEach((seq) => this.frame(`e-${seq}`, event(seq)));
    return this;
  }

  end(id, more) {
    this.frame(id, { type: "stream_end", status: null, reason: "terminal", final: true, last_id: id, retry_after_ms: null, ...more });
    this.response.end();
    return this;
  }

  /** Without a word, in the middle of whatever it is. */
  cut() {
    setTimeout(() => this.response.destroy(), 5); // what was written goes out first
    return this;
  }
}

export const sse = (write, options) => (response, request) => write(new Sse(response, options), request);

export const event = (seq, more = {}) => ({ type: "status", run_id: "run_1", ts: new Date().toISOString(), n: seq, ...more });

export const frame = (seq, more) => ({ id: `e-${seq}`, event: event(seq, more) });
