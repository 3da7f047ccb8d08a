// What a stream's URL says: its polling twin, and what it is called on a shared WebSocket. Pure.

const BEGINNINGS = ["after", "tail"]; // where to start: void once there is a position
const COMMON = ["after", "types", "lossless"]; // what a `follow` message can say too

const CHANNELS = [
  { path: /^tasks\/stream$/, service: "tasks", channel: () => "tasks" },
  { path: /^tasks\/([^/]+)\/stream$/, service: "tasks", channel: (/** @type {string} */ id) => `task/${id}` },
  { path: /^runs\/stream$/, service: "runs", channel: () => "runs" },
  { path: /^runs\/([^/]+)\/stream$/, service: "runs", channel: (/** @type {string} */ id) => `run/${id}` },
  {
    path: /^sessions\/([^/]+)\/(?:stream|events)$/,
    service: "runs",
    channel: (/** @type {string} */ id) => `session/${id}`,
  },
  {
    path: /^sessions\/([^/]+)\/workers\/([^/]+)\/(?:stream|events)$/,
    service: "runs",
    channel: (/** @type {string} */ id, /** @type {string} */ worker) => `session/${id}/worker/${worker}`,
  },
  { path: /^previews\/stream$/, service: "previews", channel: () => "previews" },
  {
    path: /^generations\/([^/]+)\/preview\/logs\/stream$/,
    service: "previews",
    channel: (/** @type {string} */ id) => `preview/${id}`,
  },
];
const PATH = /^(.*\/api\/v1\/)(.+)$/;

/** What to follow, on whichever transport. */
export class Target {
  /** Where a shared WebSocket to its service is; null where it cannot go over one. @type {string|null} */
  socketUrl = null;
  /** What it is called there. @type {string|null} */
  channel = null;
  /** Where streams of the same service are: `…/api/v1/`. @type {string|null} */
  base = null;
  /** The run that it is about, if that is all that is asked. @type {string|null} */
  runId = null;

  /**
   * @param {string} url
   * @param {{after?: string|null, types?: string[], lossless?: boolean}} [asked]
   */
  constructor(url, { after = null, types, lossless } = {}) {
    this.url = new URL(url, globalThis.document?.baseURI);
    const parameters = this.url.searchParams;
    if (after !== null) parameters.set("after", after);
    if (types) parameters.set("types", types.join(","));
    if (lossless) parameters.set("lossless", "1");
    this.#recognise();
  }

  #recognise() {
    const [, base, rest] = PATH.exec(this.url.pathname) ?? [];
    const parameters = [...this.url.searchParams.keys()];
    if (base === undefined || parameters.some((name) => !COMMON.includes(name))) return;
    for (const { path, service, channel } of CHANNELS) {
      const match = path.exec(rest);
      if (!match) continue;
      const [id = "", worker = ""] = match.slice(1).map(decodeURIComponent);
      this.base = this.url.origin + base;
      this.channel = channel(id, worker);
      this.socketUrl = `${this.base.replace(/^http/, "ws")}${service}/ws`;
      if (service === "runs" && this.channel.startsWith("run/") && !this.types && !this.lossless) this.runId = id;
    }
  }

  get after() {
    return this.url.searchParams.get("after");
  }

  /** @returns {string[]|null} */
  get types() {
    const types = this.url.searchParams.get("types");
    return types === null ? null : types.split(",");
  }

  get lossless() {
    return ["1", "true"].includes(this.url.searchParams.get("lossless") ?? "");
  }

  /**
   * The stream, from a position (none: where it was asked to begin); the position itself goes in a header.
   * @param {string|null} position
   */
  streamUrl(position) {
    return this.#from(position).href;
  }

  /**
   * Its polling twin, from a position.
   * @param {string|null} position
   * @param {number} limit
   */
  pollUrl(position, limit) {
    const url = this.#from(position);
    url.pathname = url.pathname.replace(/\/stream$/, "/events");
    for (const name of ["interval", "max_ticks"]) url.searchParams.delete(name);
    url.searchParams.set("on_reset", "reset"); // as streams have it
    if (position !== null) url.searchParams.set("after", position);
    url.searchParams.set("limit", String(limit));
    return url.href;
  }

  /** @param {string|null} position */
  #from(position) {
    const url = new URL(this.url);
    if (position !== null) BEGINNINGS.forEach((name) => url.searchParams.delete(name));
    return url;
  }
}
