// A line of server-sent events: one stream, or many runs on one.

import { Cut } from "./cut.js";
import { Line } from "./line.js";
import { Refused } from "./problems.js";

/** @typedef {import("./deadline.js").Deadline} Deadline */
/** @typedef {import("./follower.js").Follower} Follower */

/** Carries one stream. */
export class SseLine extends Line {
  /**
   * @param {string|null} token
   * @param {Deadline} attempt
   */
  async connect(token, attempt) {
    for (const member of this.members) await this.carry(member, token, attempt);
  }

  /**
   * @param {Follower} member
   * @param {string|null} token
   * @param {Deadline} attempt
   */
  async carry(member, token, attempt) {
    const { position, target } = member;
    try {
      const how = { lastEventId: position, token, attempt };
      const isOver = await this.readStream(target.streamUrl(position), how, (frames) => member.take(frames, this));
      if (isOver) member.finishSilently();
    } catch (error) {
      if (!(error instanceof Refused) || error.mayPass || error.status === 401) throw error;
      member.refuse(error.problem);
    }
    throw new Cut("the connection was closed");
  }
}
