// Small programs to begin with. Each is meant to be changed. Pure.

/**
 * @typedef {"asgi" | "wsgi" | "static" | "node" | "command"} Kind
 * @typedef {{ id: string, name: string, about: string, kind: Kind, entry: string, command?: string[],
 *   env: Record<string, string>, files: Record<string, string> }} Starter
 */

const STYLE = `:root { color-scheme: light dark; font-family: system-ui, sans-serif; }
body { max-width: 36rem; margin: 3rem auto; padding: 0 1.25rem; line-height: 1.5; }
h1 { font-size: 1.6rem; letter-spacing: -.02em; }
form { display: flex; gap: .5rem; margin: 1.5rem 0; }
input { flex: 1; min-width: 0; padding: .5rem .7rem; font: inherit; border: 1px solid #8888; border-radius: .4rem; }
button { padding: .5rem 1rem; font: inherit; font-weight: 600; color: #fff; background: #0a6a73; border: 0; border-radius: .4rem; }
li { padding: .4rem 0; border-bottom: 1px solid #8883; }
ul { padding: 0; list-style: none; }
`;

/** @type {readonly Starter[]} */
export const STARTERS = [
  {
    id: "litestar",
    name: "Litestar app",
    about: "A guest book in Python, with a page, an API and a log line for each visit.",
    kind: "asgi",
    entry: "main:app",
    env: { GREETING: "Leave a word" },
    files: {
      "main.py": `import os

from litestar import Litestar, MediaType, get, post

from pages import front

entries: list[str] = []


@get("/", media_type=MediaType.HTML)
async def index() -> str:
    print(f"INFO: somebody is here; {len(entries)} entries so far")
    return front(os.environ.get("GREETING", "Welcome"))


@get("/entries")
async def list_entries() -> list[str]:
    return entries


@post("/entries")
async def add(data: dict[str, str]) -> list[str]:
    text = data.get("text", "").strip()
    if not text:
        print("WARNING: an empty entry was left out")
    else:
        entries.append(text)
        print(f"INFO: entry {len(entries)}: {text}")
    return entries


@get("/health")
async def health() -> str:
    return "ok"


app = Litestar([index, list_entries, add, health])
print("\\x1b[32mguest book\\x1b[0m is open")
`,
      "pages.py": `from html import escape
from pathlib import Path


def front(greeting: str) -> str:
    page = Path("index.html").read_text()
    style = Path("style.css").read_text()
    return page.replace("{{greeting}}", escape(greeting)).replace("/* style */", style)
`,
      "index.html": `<!doctype html>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Guest book</title>
<style>/* style */</style>
<h1>{{greeting}}</h1>
<form id="form">
  <input id="text" aria-label="Your words" placeholder="Your words" autocomplete="off">
  <button>Add</button>
</form>
<ul id="list"></ul>
<script>
  const show = (entries) => list.replaceChildren(...entries.map((text) => {
    const item = document.createElement("li");
    item.textContent = text;
    return item;
  }));
  const ask = async (options) => show(await (await fetch("/entries", options)).json());
  form.onsubmit = (event) => {
    event.preventDefault();
    ask({ method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ text: text.value }) });
    form.reset();
  };
  ask();
</script>
`,
      "style.css": STYLE,
    },
  },
  {
    id: "static",
    name: "Static files",
    about: "A page with a style and a script; no program of your own.",
    kind: "static",
    entry: "",
    env: {},
    files: {
      "index.html": `<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>A river</title>
  <link rel="stylesheet" href="style.css">
</head>
<body>
  <h1>A river</h1>
  <p>Move over the water.</p>
  <canvas id="river" width="720" height="320"></canvas>
  <script src="river.js"></script>
</body>
</html>
`,
      "style.css": `${STYLE}canvas { width: 100%; border-radius: .75rem; background: #0a3d45; touch-action: none; }
`,
      "river.js": `const canvas = document.getElementById("river");
const pen = canvas.getContext("2d");
let push = 0;

canvas.addEventListener("pointermove", (event) => (push = (event.offsetY / canvas.clientHeight - 0.5) * 2));

function draw(time) {
  pen.clearRect(0, 0, canvas.width, canvas.height);
  for (let row = 0; row < 9; row += 1) {
    pen.beginPath();
    for (let x = 0; x <= canvas.width; x += 8) {
      const y = 40 + row * 30 + Math.sin(x / 60 + time / 900 + row) * (8 + 12 * Math.abs(push));
      if (x === 0) pen.moveTo(x, y);
      else pen.lineTo(x, y);
    }
    pen.strokeStyle = \`hsl(\${180 + row * 4} 55% \${30 + row * 6}%)\`;
    pen.lineWidth = 6;
    pen.stroke();
  }
  requestAnimationFrame(draw);
}
requestAnimationFrame(draw);
`,
    },
  },
  {
    id: "node",
    name: "Node server",
    about: "node:http and nothing else. It counts visits and says so.",
    kind: "node",
    entry: "server.js",
    env: { NAME: "Node" },
    files: {
      "server.js": `const http = require("node:http");
const { page } = require("./page.js");

let visits = 0;

const server = http.createServer((request, response) => {
  if (request.url === "/health") {
    response.end("ok");
    return;
  }
  visits += 1;
  console.log(\`\${request.method} \${request.url} is visit \${visits}\`);
  if (request.url !== "/") console.error(\`WARN: there is nothing at \${request.url}\`);
  response.writeHead(request.url === "/" ? 200 : 404, { "Content-Type": "text/html; charset=utf-8" });
  response.end(page(process.env.NAME, visits));
});

server.listen(process.env.PORT || 3000, () => console.log("\\x1b[36mlistening\\x1b[0m with node", process.version));
`,
      "page.js": `exports.page = (name, visits) => \`<!doctype html>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>\${name}</title>
<style>
  body { display: grid; place-content: center; min-height: 90vh; margin: 0; text-align: center; font-family: system-ui; color: #0e3b2e; background: #e8f5ee; }
  strong { font-size: 5rem; line-height: 1; }
</style>
<p>Hello from \${name}. You are visit</p>
<strong>\${visits}</strong>\`;
`,
    },
  },
  {
    id: "talker",
    name: "A talkative program",
    about: "A command that prints in colours, at all levels, and shows a progress bar: to try the terminal with.",
    kind: "command",
    entry: "",
    command: ["python", "talk.py"],
    env: { LINES: "400", PAUSE: "0.05" },
    files: {
      "talk.py": `import itertools
import os
import random
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingMixIn, UnixStreamServer

COLOURS = [31, 32, 33, 34, 35, 36, 90, 94]
PLACES = ["the weir", "the sluice", "the mill pond", "the tailrace", "the spillway"]


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        print(f"somebody asks for {self.path}")
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(b"<h1 style='font-family: system-ui'>It talks in the terminal.</h1>")

    def log_message(self, *_):
        pass

    def address_string(self):
        return "somebody"


class Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


def talk():
    pause, lines = float(os.environ["PAUSE"]), int(os.environ["LINES"])
    for n in itertools.count(1):
        if n > lines:
            print("\\x1b[1mthat is all for now\\x1b[0m")
            return
        place, level = random.choice(PLACES), random.random()
        if n % 60 == 0:
            for percent in range(0, 101, 4):
                print(f"\\ropening {place}: [{'#' * (percent // 4):25}] {percent}%", end="", flush=True)
                time.sleep(0.04)
            print()
        elif level < 0.04:
            print(f"ERROR: {place} does not answer", file=sys.stderr)
        elif level < 0.12:
            print(f"WARNING: the water at {place} is high", file=sys.stderr)
        elif level < 0.3:
            print(f"DEBUG: looked at {place}")
        else:
            print(f"INFO: \\x1b[{random.choice(COLOURS)}m{place}\\x1b[0m lets through {random.random() * 9:.2f} m³/s")
        time.sleep(pause)


threading.Thread(target=talk, daemon=True).start()
Server(os.environ["PORT"], Page).serve_forever()
`,
    },
  },
];

/**
 * A name for a program that nothing else has.
 * @param {string} stem
 * @param {number} [chance] between 0 and 1
 */
export function newName(stem, chance = Math.random()) {
  return `${stem}-${Math.floor(chance * 36 ** 4).toString(36).padStart(4, "0")}`;
}

/**
 * A line such as `python -m app "two words"` as a program and its arguments. No shell reads it: quotes keep words
 * together, and that is all.
 * @param {string} line
 */
export function argumentsOf(line) {
  const words = [];
  for (const [, double, single, plain] of line.matchAll(/"((?:[^"\\]|\\.)*)"|'([^']*)'|(\S+)/g)) {
    words.push(double !== undefined ? double.replace(/\\(.)/g, "$1") : (single ?? plain));
  }
  return words;
}

/** @param {readonly string[]} words */
export function lineOf(words) {
  return words.map((word) => (/^[^\s"'\\]+$/.test(word) ? word : `"${word.replace(/["\\]/g, "\\$&")}"`)).join(" ");
}

/**
 * `NAME=value` lines as an environment. Throws where one is neither that, nor empty, nor a comment.
 * @param {string} text
 * @returns {Record<string, string>}
 */
export function environmentOf(text) {
  const environment = /** @type {Record<string, string>} */ ({});
  for (const line of text.split("\n").map((each) => each.trim())) {
    if (!line || line.startsWith("#")) continue;
    const at = line.indexOf("=");
    if (at < 1) throw new Error(`Write NAME=value, one a line; this is none: ${line.slice(0, 60)}`);
    environment[line.slice(0, at).trim()] = line.slice(at + 1).trim();
  }
  return environment;
}
