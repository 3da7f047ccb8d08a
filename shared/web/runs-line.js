// A line that carries many runs on one stream of server-sent events, `/runs/stream?run=…&run=…`.
//
// That stream has one position, its members have one each. So a run that comes along is first read up to the head
// by polling, and then the stream goes on from the earliest of all positions; what a member has had, it drops.

import { Cut } from "./cut.js";
import { SseLine } from "./sse-line.js";
import { isAfter } from "./position.js";
import { Refused } from "./problems.js";
import { TERMINAL } from "./wire.js";

/** @typedef {import("./credentials.js").Credentials} Credentials */
/** @typedef {import("./deadline.js").Deadline} Deadline */
/** @typedef {import("./follower.js").Follower} Follower */
/** @typedef {import("./follower.js").RawFrame} RawFrame */
/** @typedef {import("./line.js").Tuning} Tuning */
/** @typedef {import("./wire.js").StreamEnd} StreamEnd */

const JOIN_MS = 50; // runs that come one after the other come on at once

export class RunsLine extends SseLine {
  /** Members that are known to be there, and stand near the head. @type {Set<Follower>} */
  #readUp = new Set();
  /** Members that were there when this attempt began. @type {Set<Follower>} */
  #carried = new Set();
  /** @type {ReturnType<typeof setTimeout>|undefined} */
  #joining = undefined;

  /**
   * @param {string} base
   * @param {Credentials} credentials
   * @param {Tuning} tuning
   */
  constructor(base, credentials, tuning) {
    super(credentials, tuning);
    this.base = base;
  }

  /** @param {Follower} member */
  joined(member) {
    clearTimeout(this.#joining);
    this.#joining = setTimeout(() => {
      if ([...this.members].every((one) => this.#carried.has(one))) return;
      if (this.state.phase !== "pausing") this.drop(new Cut("another run has come along", { isAtOnce: true }));
    }, JOIN_MS);
  }

  /** @param {Follower} member */
  left(member) {
    this.#readUp.delete(member);
  }

  /**
   * @param {string|null} token
   * @param {Deadline} attempt
   */
  async connect(token, attempt) {
    this.#carried = new Set(this.members);
    if (this.members.size > 1) await this.#readMembersUp(attempt);
    if (this.members.size > 1) await this.#carryAll(token, attempt);
    else await super.connect(token, attempt);
  }

  /** @param {Deadline} attempt */
  async #readMembersUp(attempt) {
    for (const member of this.#carried) {
      if (this.#readUp.has(member) || member.isOver) continue;
      if (!(await member.poll(attempt.signal))) throw new Cut("the server does not answer");
      if (attempt.signal.aborted) throw attempt.signal.reason;
      this.#readUp.add(member);
      attempt.set(this.tuning.answerMs, "there was no answer in time");
    }
  }

  /**
   * @param {string|null} token
   * @param {Deadline} attempt
   */
  async #carryAll(token, attempt) {
    const present = [...this.#carried].filter((member) => this.members.has(member));
    const members = new Map(present.map((member) => [String(member.target.runId), member]));
    const positions = [...members.values()].map(({ position }) => String(position));
    const earliest = positions.reduce((one, other) => (isAfter(one, other) ? other : one));
    const query = new URLSearchParams([...members.keys()].map((id) => ["run", id]));
    const how = { lastEventId: earliest, token, attempt };
    try {
      await this.readStream(`${this.base}runs/stream?${query}`, how, (frames) => this.#takeAll(frames, members));
    } catch (error) {
      if (!(error instanceof Refused) || error.mayPass || error.status === 401) throw error;
      this.#readUp.clear(); // one of them is gone: their twins know which
      throw new Cut(error.message);
    }
  }

  /**
   * @param {RawFrame[]} frames
   * @param {Map<string, Follower>} members by their runs
   * @returns {StreamEnd|null}
   */
  #takeAll(frames, members) {
    /** @type {Map<Follower, RawFrame[]>} */
    const portions = new Map([...members.values()].map((member) => [member, []]));
    for (const frame of frames) {
      const { run_id: id } = frame.event;
      const concerned = id === undefined ? members.values() : [members.get(id)]; // control frames concern all
      for (const member of concerned) if (member) portions.get(member)?.push(forOne(frame, member));
    }
    let end = null;
    for (const [member, portion] of portions) end = this.#takeOne(member, portion) ?? end;
    const upto = frames.at(-1)?.id;
    for (const member of members.values()) {
      if (upto && isAfter(upto, member.position)) member.position = upto; // it has had all there was for it
    }
    return end;
  }

  /**
   * The end of one run ends this stream for its member alone.
   * @param {Follower} member
   * @param {RawFrame[]} portion
   */
  #takeOne(member, portion) {
    const end = member.take(portion, this);
    for (const { id, event } of portion) {
      if (event.type === "status" && TERMINAL.has(event.status)) member.finish(over(event.status, "terminal", id));
      if (event.type === "deleted") member.finish(over(null, "access_revoked", id));
      if (event.type === "reset") this.#readUp.delete(member);
    }
    return end;
  }
}

/**
 * A gap is told to each run; what it counts is that of all of them, and its backfill becomes the run's own.
 * @param {RawFrame} frame
 * @param {Follower} member
 * @returns {RawFrame}
 */
function forOne(frame, { target }) {
  if (frame.event.type !== "gap") return frame;
  const { searchParams } = new URL(frame.event.backfill, target.url);
  const own = new URL(target.pollUrl(null, 1));
  own.search = `?after=${searchParams.get("after")}&until=${searchParams.get("until")}`;
  return { id: frame.id, event: { ...frame.event, backfill: own.href } };
}

/**
 * @param {string|null} status
 * @param {string} reason
 * @param {string} id
 * @returns {StreamEnd}
 */
function over(status, reason, id) {
  return { type: "stream_end", status, reason, final: true, last_id: id, retry_after_ms: null };
}
