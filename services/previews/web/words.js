// What becomes of a preview, in words. Pure.

/**
 * A preview as the API shows it, or as far as its events tell.
 * @typedef {{ id: string, generation_id: string, status: string, kind: string, entry?: string, command?: string[],
 *   isolation?: string | null, url?: string | null, passage?: string, attempt: number,
 *   exit?: { code: number | null, signal: string | null } | null, message?: string | null,
 *   ready_after_ms?: number | null, tail?: string[], files?: string[], network?: boolean, created_at?: string,
 *   started_at?: string | null, stopped_at?: string | null, expires_at?: string | null, last_position?: string }} Preview
 */

export const OVER = new Set(["stopped", "exited", "failed", "lost"]);
export const SERVING = new Set(["running", "unhealthy"]);

/** @param {Preview} preview */
export const isOver = (preview) => OVER.has(preview.status);

/**
 * How it has ended; null while it has not.
 * @param {Preview} preview
 * @returns {{ tone: "bad" | "over", title: string, text: string } | null}
 */
export function endOf(preview) {
  if (!isOver(preview)) return null;
  const cause = causeOf(preview);
  const message = preview.message ? sentence(preview.message) : "";
  switch (preview.status) {
    case "stopped":
      return { tone: "over", title: "Stopped", text: preview.message === "stopped" ? cause : message };
    case "exited":
      return { tone: preview.exit?.code === 0 ? "over" : "bad", title: `Ended: ${exitOf(preview)}`, text: "" };
    case "lost":
      return { tone: "bad", title: "Lost", text: "The service was killed while the program ran; its next start has ended it." };
    default:
      return { tone: "bad", title: preview.exit ? `Failed: ${exitOf(preview)}` : "Failed", text: message };
  }
}

/** @param {Preview} preview */
function exitOf({ exit }) {
  if (exit?.signal) return exit.signal;
  return exit && exit.code !== null ? `exit code ${exit.code}` : "how is not known";
}

/** @param {Preview} preview */
function causeOf(preview) {
  return preview.exit ? `It ended with ${exitOf(preview)}.` : "";
}

/** @param {string} message */
function sentence(message) {
  const text = message.charAt(0).toUpperCase() + message.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

/**
 * What is going on, where the program would be shown.
 * @param {Preview} preview
 */
export function progressOf(preview) {
  switch (preview.status) {
    case "preparing": return "Its files are being written.";
    case "starting": return "It has been started, and has not answered yet.";
    case "unhealthy": return "It has not answered twice in a row.";
    case "stopping": return preview.message === "restarted" ? "It is being stopped, to be started again." : "It is being stopped.";
    case "running": return "It answers.";
    default: return "";
  }
}

/** How far a program is kept from what is around it, in words for who launches one. @type {Readonly<Record<string, string>>} */
export const ISOLATION = Object.freeze({
  bubblewrap: "In a sandbox: it reaches neither Tailrace, nor other programs, nor the network.",
  uid: "As a user of its own: Tailrace's files and other programs are out of its reach, the network is not.",
  process: "As Tailrace's own user: it can read and change whatever Tailrace can.",
});

/**
 * The same preview after an event about it.
 * @param {Preview} preview
 * @param {Record<string, any>} event
 * @returns {Preview}
 */
export function after(preview, event) {
  if (event.type !== "preview_status" || event.preview_id !== preview.id) return preview;
  const { status, attempt } = event;
  const isNew = attempt !== preview.attempt;
  return {
    ...preview,
    status,
    attempt,
    kind: event.kind ?? preview.kind,
    isolation: event.isolation ?? preview.isolation,
    url: event.url ?? preview.url,
    exit: event.exit ?? null,
    message: event.message ?? null,
    ready_after_ms: event.ready_after_ms ?? null,
    expires_at: event.expires_at ?? (isNew ? null : preview.expires_at),
    stopped_at: OVER.has(status) ? event.ts : null,
    started_at: status === "starting" ? event.ts : preview.started_at,
    tail: OVER.has(status) && !isNew ? preview.tail : [],
  };
}

/**
 * What an event tells of a preview that was not known.
 * @param {Record<string, any>} event
 * @returns {Preview}
 */
export function fromEvent(event) {
  const { preview_id: id, generation_id, status, kind, attempt, ts } = event;
  return after({ id, generation_id, status, kind, attempt, created_at: ts }, event);
}
