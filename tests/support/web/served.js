// Modules of pages name each other as they are served, `/web/<folder>/<file>`; this is where those files lie.
//
//   const { Card } = await served("runs/card.js")

import { register } from "node:module";

const HOOK = `
  const ROOT = ${JSON.stringify(new URL("../../../", import.meta.url).href)};
  const placeOf = (folder) => (folder === "shared" ? "shared/web" : "services/" + folder + "/web");
  export async function resolve(name, context, next) {
    const [, folder, file] = /^\\/web\\/([a-z]+)\\/(.+)$/.exec(name) ?? [];
    return next(folder ? ROOT + placeOf(folder) + "/" + file : name, context);
  }`;

register(`data:text/javascript,${encodeURIComponent(HOOK)}`);

/** @param {string} path below /web @returns {Promise<any>} */
export function served(path) {
  return import(`/web/${path}`);
}
