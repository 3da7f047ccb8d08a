// The page of previews.

import { startPage } from "/web/shared/page.js";

await startPage();
