// What a page sends over a shared WebSocket: not more than the server takes.

const MOST = 180; // the server closes at more than 200 in 10 s
const WINDOW_MS = 10_000;

export class Sender {
  /** @type {number[]} */
  #sentAt = [];
  /** @type {{op: string, ref?: string}[]} */
  #queue = [];
  /** @type {ReturnType<typeof setTimeout>|undefined} */
  #timer = undefined;

  /** @param {WebSocket} socket open */
  constructor(socket) {
    this.socket = socket;
  }

  /**
   * Now, or as soon as there is room. What has not left yet is taken back by its opposite, so that no more can wait than
   * there are streams.
   * @param {{op: string, ref?: string, [field: string]: unknown}} message
   */
  send(message) {
    const opposite = this.#queue.findIndex(({ ref }) => ref !== undefined && ref === message.ref);
    if (opposite >= 0) {
      this.#queue.splice(opposite, 1);
      return;
    }
    if (message.op === "ping" && this.#queue.length) return; // what waits will be answered too
    this.#queue.push(message);
    this.#flush();
  }

  close() {
    clearTimeout(this.#timer);
    this.#queue = [];
  }

  #flush() {
    clearTimeout(this.#timer);
    const now = Date.now();
    this.#sentAt = this.#sentAt.filter((time) => time > now - WINDOW_MS);
    for (const message of this.#queue.splice(0, MOST - this.#sentAt.length)) {
      this.#sentAt.push(now);
      this.socket.send(JSON.stringify(message));
    }
    if (this.#queue.length) this.#timer = setTimeout(() => this.#flush(), this.#sentAt[0] + WINDOW_MS - now + 1);
  }
}
