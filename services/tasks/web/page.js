// The page of tasks.

import { startPage } from "/web/shared/page.js";

await startPage();
