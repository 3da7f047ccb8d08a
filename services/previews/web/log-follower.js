// Follows the output of a generation's preview and hands it to its terminal, over cuts, attempts and replacements.

import { follow } from "/web/shared/stream.js";
import { previewUrl } from "./api.js";
import { isOver } from "./words.js";

/** @typedef {import("./words.js").Preview} Preview */

export class LogFollower {
  /**
   * @param {string} generation
   * @param {import("./terminal.js").Terminal} terminal
   * @param {import("/web/shared/chip.js").ConnectionChip} connection
   */
  constructor(generation, terminal, connection) {
    this.url = `${previewUrl(generation)}/logs/stream`;
    this.terminal = terminal;
    this.connection = connection;
    this.id = "";
    this.hasEnded = false; // the stream, with an attempt; what has been started again has a stream again
    /** @type {import("/web/shared/follow.js").Following | null} */
    this.following = null;
    /** @type {{ set(status: any): void, remove(): void } | null} */
    this.line = null;
  }

  /**
   * This is the preview now.
   * @param {Preview} preview
   */
  follow(preview) {
    const isOther = preview.id !== this.id;
    const isRevived = this.hasEnded && !isOver(preview);
    if (!isOther && !isRevived) return;
    const after = isOther ? null : (this.following?.position ?? null);
    this.following?.stop();
    this.line?.remove();
    this.id = preview.id;
    this.hasEnded = false;
    const { terminal } = this;
    const following = follow(this.url, {
      after,
      types: ["log"],
      onFrames: (frames) => terminal.take(frames.map((frame) => /** @type {any} */ (frame.event))),
      onGap: () => terminal.skip(),
      onReset: () => terminal.clear(),
      onEnd: () => (this.hasEnded = true),
      onStatus: (status) => this.line?.set(status),
    });
    this.following = following;
    this.line = this.connection.track("Output", following);
  }
}
