// The start page.

import { startPage } from "/web/shared/page.js";

await startPage();
