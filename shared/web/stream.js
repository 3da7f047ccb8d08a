// The browser's side of Tailrace: everything a page needs, under one name. docs/browser.md shows how to use it.

export { credentials, Credentials, setTokenSource, signIn, signOut, useTabToken } from "./credentials.js";
export { backfill, follow } from "./follow.js";
export { ask, request } from "./http.js";
export { Lines } from "./lines.js";
export { isAfter, isPosition } from "./position.js";
export { Refused, Unavailable } from "./problems.js";
export { LiveResource, shouldStream } from "./resource.js";
export { parseSseChunk } from "./sse.js";
export { streamSse } from "./sse-stream.js";
export { combineStatuses, describeStatus } from "./status.js";
export { TERMINAL } from "./wire.js";

/** @typedef {import("./credentials.js").Cause} Cause */
/** @typedef {import("./credentials.js").SignInState} SignInState */
/** @typedef {import("./credentials.js").TokenSource} TokenSource */
/** @typedef {import("./follow.js").Following} Following */
/** @typedef {import("./follow.js").FollowOptions} FollowOptions */
/** @typedef {import("./follow.js").Transport} Transport */
/** @typedef {import("./http.js").Answer} Answer */
/** @typedef {import("./http.js").RequestOptions} RequestOptions */
/** @typedef {import("./sse.js").SseMessage} SseMessage */
/** @typedef {import("./sse.js").SseState} SseState */
/** @typedef {import("./status.js").Phase} Phase */
/** @typedef {import("./status.js").Status} Status */
/** @typedef {import("./wire.js").Frame} Frame */
/** @typedef {import("./wire.js").Gap} Gap */
/** @typedef {import("./wire.js").Problem} Problem */
/** @typedef {import("./wire.js").Reset} Reset */
/** @typedef {import("./wire.js").StreamEnd} StreamEnd */
/** @typedef {import("./wire.js").WireEvent} WireEvent */
/**
 * @template S
 * @typedef {import("./resource.js").LiveResourceOptions<S>} LiveResourceOptions
 */
