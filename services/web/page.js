// The start page: what is going on in the three domains, how well the services are, and how to begin.

import { toast } from "/web/shared/announce.js";
import { byId } from "/web/shared/dom.js";
import { startPage } from "/web/shared/page.js";
import { request } from "/web/shared/stream.js";

import { DOMAINS } from "/web/start/domains.js";
import { Health } from "/web/start/health.js";
import { hints } from "/web/start/hints.js";
import { Overview } from "/web/start/overview.js";

const { config, connection } = await startPage();

for (const domain of DOMAINS) {
  const overview = new Overview(domain, connection);
  byId("domains").append(overview.element);
  overview.start();
}
byId("hints").append(...hints(location.origin, config.auth !== "off"));
new Health(byId("health"), byId("health-all")).start();

const sample = /** @type {HTMLButtonElement} */ (byId("sample"));
sample.addEventListener("click", async () => {
  sample.disabled = true;
  try {
    const run = await request("/api/v1/runs", { json: { task: "Say something" }, idempotencyKey: crypto.randomUUID() });
    location.assign(`/runs/${run.id}`);
  } catch (error) {
    toast(`The run was not started: ${/** @type {Error} */ (error).message}`, { tone: "bad" });
    sample.disabled = false;
  }
});
