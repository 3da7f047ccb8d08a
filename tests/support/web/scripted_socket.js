// A WebSocket whose other end is a test. What browsers do is tested in a browser; this is for what a server may do.

/** Makes a class in place of `WebSocket`, and keeps all that are opened with it. */
export function scriptedSockets() {
  const sockets = [];
  const waiting = [];

  class ScriptedSocket {
    sent = [];
    isClosed = false;
    onopen = null;
    onmessage = null;
    onclose = null;

    constructor(url, protocols) {
      Object.assign(this, { url, protocols });
      sockets.push(this);
      wake();
    }

    // ── the page's side ──

    send(text) {
      if (this.isClosed) throw new Error("it is closed");
      this.sent.push(JSON.parse(text));
      wake();
    }

    close() {
      this.isClosed = true;
      wake();
    }

    // ── the server's side ──

    open() {
      this.onopen?.();
      return this;
    }

    /** Frames as one message. */
    tell(...frames) {
      this.onmessage?.({ data: JSON.stringify(frames) });
      return this;
    }

    raw(data) {
      this.onmessage?.({ data });
      return this;
    }

    cut(code = 1006) {
      this.isClosed = true;
      this.onclose?.({ code });
      wake();
    }

    get follows() {
      return this.sent.filter(({ op }) => op === "follow");
    }

    /** The ref that a channel was last followed by. */
    ref(channel) {
      return this.follows.findLast((message) => message.channel === channel)?.ref;
    }
  }

  function wake() {
    waiting.splice(0).forEach((resolve) => resolve());
  }

  return {
    WebSocket: ScriptedSocket,
    all: sockets,
    /** Until something is so of the newest socket. */
    async until(wanted) {
      while (!sockets.length || !wanted(sockets.at(-1))) await new Promise((resolve) => waiting.push(resolve));
      return sockets.at(-1);
    },
    /** The newest of so many, when it is there. */
    async number(count) {
      while (sockets.length < count) await new Promise((resolve) => waiting.push(resolve));
      return sockets[count - 1];
    },
  };
}

/** What a stream on a shared socket begins with. */
export const greeting = (ref, seq, resumed = false) => ({
  ...{ ref, id: `e-${seq}` },
  event: { type: "hello", epoch: "e", head: 99, oldest: 1, after: seq, resumed, heartbeat_seconds: 15 },
});
export const live = (ref, seq) => ({ ref, id: `e-${seq}`, event: { type: "live", replayed: 0 } });
export const told = (ref, seq, more = {}) => ({ ref, id: `e-${seq}`, event: { type: "status", n: seq, ...more } });
export const ended = (ref, seq, more = {}) => ({
  ...{ ref, id: `e-${seq}` },
  event: { type: "stream_end", status: null, reason: "terminal", final: true, last_id: `e-${seq}`, retry_after_ms: null, ...more },
});
