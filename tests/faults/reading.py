"""A reader in a process of its own, which can be frozen: `python -m tests.faults.reading URL PATH TRANSPORT LOSSLESS`.

It prints `live`, and when the stream has ended what it has seen: seqs, and gaps as [from, to, dropped].
"""

import asyncio
import json
import sys
from typing import Any

from shared.client import Client
from shared.protocol.control import Gap


async def follow(url: str, path: str, transport: Any, lossless: bool) -> list[Any]:
    seen: list[Any] = []
    said = False
    async with Client(url) as client, client.follow(path, transport=transport, lossless=lossless) as stream:
        while await stream.wait():
            for item in stream.ready():
                if isinstance(item, Gap):
                    seen.append([item.from_seq, item.to_seq, item.dropped])
                else:
                    seen.append(int(stream.position.rpartition("-")[2]))
            if stream.live and not said:
                said = True
                print("live", flush=True)
    return seen


if __name__ == "__main__":
    print(json.dumps(asyncio.run(follow(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4] == "lossless"))))
