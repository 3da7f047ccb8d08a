"""Each kind of program in each tier, asked something over its socket."""

import json
import shutil
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.previews.launch import Kind, LaunchFailed, SpecRefused
from services.previews.launch.kinds import SYSTEM_PATH
from tests.support.launching import PYTHON, TIERS, Place, Program, eventually, launching

LITESTAR = """
import os, sys
from litestar import Litestar, get
@get("/health")
async def health() -> dict[str, str]:
    print("asked for its health")
    return {"cwd": os.getcwd(), "python": sys.executable}
app = Litestar([health])
"""
WSGI = """
class site:
    @staticmethod
    def app(environ, start_response):
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["REQUEST_METHOD"].encode(), b" ", environ["PATH_INFO"].encode(), b" ", body]
"""
NODE = """
const http = require("node:http");
const server = http.createServer((request, response) => response.end("node " + request.url));
"""
LISTEN_FDS = """
import os, socket
assert os.environ["LISTEN_FDS"] == "1" and os.environ["LISTEN_PID"] == str(os.getpid())
listener = socket.socket(fileno=3)
while True:
    connection, _ = listener.accept()
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: 4\\r\\nconnection: close\\r\\n\\r\\nfd 3")
    connection.close()
"""
OWN_SOCKET = """
import os, socket
os.close(3)
assert os.environ["PORT"] == os.environ["TAILRACE_SOCKET"]
listener = socket.socket(socket.AF_UNIX)
listener.bind(os.environ["PORT"])
listener.listen()
while True:
    connection, _ = listener.accept()
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: 3\\r\\nconnection: close\\r\\n\\r\\nown")
    connection.close()
"""


@pytest_asyncio.fixture(params=TIERS)
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    async with launching(request.param) as place:
        yield place


async def get(program: Program, path: str = "/") -> tuple[int, str]:
    async with program.client() as client:
        response = await client.get(path)
        return response.status_code, response.text


async def test_asgi_a_litestar_program_runs_with_the_packages_of_the_service(place: Place) -> None:
    program = await place.launch("asgi", {"main.py": LITESTAR}, entry="main:app")
    status, text = await get(program, "/health")
    assert status == 200
    assert json.loads(text)["python"] == PYTHON
    assert json.loads(text)["cwd"] == ("/app" if place.tier == "bubblewrap" else str(program.spec.directory))
    await program.said("asked for its health")
    await program.said('"GET /health HTTP/1.1" 200')
    assert b"Application startup complete" in program.stderr
    exit_ = await program.stop()
    assert (exit_.code, exit_.reason) == (0, "stopped") or exit_.signal == 15
    assert b"Application shutdown complete" in program.stderr


async def test_asgi_a_program_that_cannot_be_imported_leaves_its_traceback(place: Place) -> None:
    program = await place.launch("asgi", {"main.py": "import nothing_of_the_kind"}, entry="main:app")
    exit_ = await program.exited()
    assert (exit_.code, exit_.reason) == (1, "exited")
    assert b"ModuleNotFoundError: No module named 'nothing_of_the_kind'" in program.stderr


async def test_wsgi_serves_requests_with_bodies_at_the_same_time(place: Place) -> None:
    program = await place.launch("wsgi", {"web/__init__.py": "", "web/main.py": WSGI}, entry="web.main:site.app")
    async with program.client() as client:
        response = await client.post("/a/b", content=b"x" * 100_000)
        assert response.text == "POST /a/b " + "x" * 100_000

        async def chunks() -> AsyncIterator[bytes]:
            yield b"x"

        assert (await client.post("/", content=chunks())).status_code == 411


async def test_static_serves_files_and_nothing_else(place: Place) -> None:
    files = {"index.html": "<h1>here</h1>", "sub/app.js": "1", ".hidden": "no", "sub/.env": "no"}
    directory = place.path / "data" / "prv_0" / "files"
    directory.mkdir(parents=True)
    (directory / "out").symlink_to("/etc")
    (directory / "loop").symlink_to("loop")
    program = await place.launch("static", files, entry=".")
    assert await get(program) == (200, "<h1>here</h1>")
    assert await get(program, "/index.html") == (200, "<h1>here</h1>")
    async with program.client() as client:
        response = await client.get("/sub/app.js?v=1")
        assert (response.text, response.headers["content-type"]) == ("1", "text/javascript")
    hidden = ("/sub/", "/.hidden", "/sub/.env", "/out/passwd", "/out/", "/loop", "/%2e%2e/socket", "/a%00b", "/..%2f")
    for path in hidden:
        assert (await get(program, path))[0] == 404, path


@pytest.mark.parametrize(
    "listen",
    [
        "server.listen(process.env.PORT, () => console.log('listens'))",
        "server.listen(Number(process.env.PORT) || 8080, '0.0.0.0', () => console.log('listens'))",
        "server.listen({port: 5173, host: 'localhost'}); server.on('listening', () => console.log('listens'))",
    ],
)
async def test_node_listens_where_we_want_it_whatever_it_says(place: Place, listen: str) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    program = await place.launch("node", {"server.js": NODE + listen}, entry="server.js")
    assert await get(program, "/x") == (200, "node /x")
    await program.said("listens")


async def test_node_modules_of_the_new_kind_and_webassembly_work_within_the_limits(place: Place) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    code = """
    import { createServer } from "node:http";
    new WebAssembly.Memory({ initial: 1, maximum: 100 });
    createServer((request, response) => response.end("esm")).listen(3000);
    """
    program = await place.launch("node", {"server.mjs": code}, entry="server.mjs")
    assert await get(program) == (200, "esm")


async def test_a_command_is_given_its_socket_as_systemd_does(place: Place) -> None:
    assert await get(await place.python(LISTEN_FDS)) == (200, "fd 3")


async def test_a_command_may_bind_a_socket_of_its_own(place: Place) -> None:
    program = await place.python(OWN_SOCKET)
    inode = program.spec.socket.stat().st_ino
    await eventually(lambda: program.spec.socket.stat().st_ino != inode)
    assert await get(program) == (200, "own")


async def test_a_link_in_place_of_its_own_socket_is_not_followed(place: Place) -> None:
    program = await place.python(
        "import os, time; os.symlink('/run/other.sock', os.environ['PORT']);\n"
        "while os.path.lexists(os.environ['PORT']): time.sleep(0.01)\n"
        "print('taken', flush=True); time.sleep(60)"
    )
    await program.said("taken")
    assert program.spec.socket.is_socket()
    assert not program.spec.socket.is_symlink()


async def test_the_environment_is_clean(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET_OF_THE_SERVICE", "s3cret")
    code = "import os, json; print(json.dumps(dict(os.environ)))"
    program = await place.launch("command", command=(PYTHON, "-c", code), env={"GIVEN": "a=b\n"})
    await program.exited()
    found = json.loads(program.stdout)
    directory = "/app" if place.tier == "bubblewrap" else str(program.spec.directory)
    assert found.pop("PATH").partition(":")[2] == SYSTEM_PATH
    assert found.pop("PORT") == found.pop("TAILRACE_SOCKET")
    found.pop("PWD", None)
    assert found.pop("TMPDIR")
    assert found.pop("TAILRACE_PREVIEW") == program.marker
    assert found.pop("LISTEN_PID").isdigit()
    assert found == {
        "DATABASE_URL": "sqlite:///./preview.db",
        "GIVEN": "a=b\n",
        "HOME": directory,
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "LISTEN_FDS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }


async def test_a_library_to_preload_is_obeyed_only_by_the_program(place: Place) -> None:
    """bubblewrap and our interpreter run outside of the sandbox, or before the program has given up what it must."""
    program = await place.launch("command", command=("cat", "/proc/self/comm"), env={"LD_PRELOAD": "/nothing.so"})
    await program.exited()
    assert program.stdout == b"cat\n"
    assert program.stderr.count(b"/nothing.so") == 1


async def test_it_has_four_descriptors_and_no_more(place: Place) -> None:
    program = await place.python("import os; print(sorted(os.listdir('/proc/self/fd')))")
    await program.exited()
    assert program.stdout.decode() == "['0', '1', '2', '3', '4']\n"  # 4 is the directory that is being listed


async def test_it_can_write_to_its_directory_and_its_temporary_one_only(place: Place) -> None:
    program = await place.python(
        "import os, tempfile; open('own', 'w').close(); tempfile.TemporaryFile(); import sqlite3\n"
        "sqlite3.connect('preview.db').execute('create table t (x)')\n"
        "for path in (os.__file__, '/usr/x', '/etc/x', '/x'):\n"
        "    try: open(path, 'a'); print('could write', path)\n"
        "    except OSError: pass\n"
    )
    assert (await program.exited()).code == 0, program.stderr
    if place.tier != "process":  # there it is us
        assert program.stdout == b""
    assert (program.spec.directory / "preview.db").exists()


@pytest.mark.parametrize("command", ["no-such-program", "/etc/passwd", "./not-there"])
async def test_what_cannot_be_run_is_told_in_a_sentence(place: Place, command: str) -> None:
    with pytest.raises(LaunchFailed, match=r"^The program was not started: (No such file|Permission denied)"):
        await place.launch("command", command=(command,))
    assert not (place.path / "data" / "prv_0" / "socket").exists()
    assert list((place.path / "data" / "launches").iterdir()) == []
    await place.launch("command", command=("true",))


async def test_a_file_that_is_not_there_is_refused_before_anything_is_started(place: Place) -> None:
    kinds: list[Kind] = ["node", "static"]
    for kind in kinds:
        with pytest.raises(SpecRefused, match=r"There is no (file|directory) nothing among the preview's files"):
            await place.launch(kind, entry="nothing")
