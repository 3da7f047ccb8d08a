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
