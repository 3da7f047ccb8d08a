// The previews API, as this page uses it.

import { credentials, request } from "/web/shared/stream.js";

/** @typedef {import("./words.js").Preview} Preview */

export const PREVIEWS = "/api/v1/previews";

/** @param {string} generation */
export const previewUrl = (generation) => `/api/v1/generations/${encodeURIComponent(generation)}/preview`;

/** Where people see it. @param {string} generation */
export const pageUrl = (generation) => `/previews/${encodeURIComponent(generation)}`;

/**
 * @param {string} generation
 * @param {unknown} recipe
 * @param {{ replace?: boolean }} [options]
 * @returns {Promise<Preview>}
 */
export function launch(generation, recipe, { replace = false } = {}) {
  const url = `${previewUrl(generation)}${replace ? "?replace=true" : ""}`;
  return request(url, { json: recipe, idempotencyKey: crypto.randomUUID() });
}

/** Stop it; or remove it, when it has ended. @param {string} generation */
export const remove = (generation) => request(previewUrl(generation), { method: "DELETE" });

/** @param {string} generation */
export const restart = (generation) => request(`${previewUrl(generation)}/restart`, { method: "POST" });

/**
 * @param {string} generation
 * @returns {Promise<Record<string, string>>}
 */
export async function filesOf(generation) {
  return (await request(`${previewUrl(generation)}/files`)).files;
}

/**
 * @param {string} generation
 * @param {Record<string, string | null>} files
 * @returns {Promise<Preview>}
 */
export const changeFiles = (generation, files) => request(`${previewUrl(generation)}/files`, { method: "PATCH", json: { files } });

/**
 * The address at which the program is entered, good once.
 * @param {Preview} preview
 */
export async function entryTo(preview) {
  const { ticket } = await request("/api/v1/stream-tickets", { json: { path: preview.passage } });
  return `${preview.url}?ticket=${ticket}`;
}

/**
 * A page of stored lines.
 * @param {string} generation
 * @returns {import("./terminal.js").ReadPage}
 */
export const pagesOf = (generation) => (query, signal) => request(`${previewUrl(generation)}/logs?${query}`, { signal });

/**
 * All of them as text.
 * @param {string} generation
 * @returns {import("./terminal.js").ReadText}
 */
export const textOf = (generation) => async (query) => {
  const token = await credentials.current();
  const headers = { Accept: "text/plain", ...(token && { Authorization: `Bearer ${token}` }) };
  const answer = await fetch(`${previewUrl(generation)}/logs?${query}`, { headers });
  if (answer.ok) return await answer.blob();
  const problem = await answer.json().catch(() => ({}));
  throw new Error(problem.detail ?? `${answer.status} ${answer.statusText}`);
};
