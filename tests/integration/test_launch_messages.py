"""What a supervisor has said is heard, also when it has gone without hearing what it was told."""

import json
import socket
import subprocess

from services.previews.launch.process import Supervisor


async def test_its_last_message_is_heard_though_it_left_something_unread() -> None:
    """As when a program ends by itself in the moment in which it is told to stop."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with subprocess.Popen(["true"]) as process:
        supervisor = Supervisor(process, ours)
        theirs.send(json.dumps({"exited": {"code": 0, "signal": None}}).encode())
        supervisor.say({"stop": 0})
        theirs.close()  # the stop is unread: for us the connection is reset
        assert await supervisor.hear() == {"exited": {"code": 0, "signal": None}}
        assert await supervisor.hear() is None
        await supervisor.gone()
        supervisor.close()


async def test_one_that_has_gone_without_a_word_is_noticed() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with subprocess.Popen(["true"]) as process:
        supervisor = Supervisor(process, ours)
        supervisor.say({"stop": 0})
        theirs.close()
        assert await supervisor.hear() is None
        await supervisor.gone()
        supervisor.close()
