// The page of runs.

import { startPage } from "/web/shared/page.js";

await startPage();
