"""Whose program listens on a port of this machine."""

import os
from collections.abc import Sequence
from pathlib import Path

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
LISTENS = "0A"
ROOT = 0


def listening_users(port: int, tables: Sequence[Path] = TABLES) -> set[int]:
    """Ids of the users whose programs wait for connections on this port."""
    found = set()
    for table in tables:
        if table.exists():
            for line in table.read_text().splitlines()[1:]:
                fields = line.split()
                address, state, user = fields[1], fields[3], fields[7]
                if state == LISTENS and int(address.rpartition(":")[2], 16) == port:
                    found.add(int(user))
    return found


def is_taken_by_another_user(port: int, tables: Sequence[Path] = TABLES) -> bool:
    """Whether what listens there may be another user's, who would learn what is sent to it."""
    return bool(listening_users(port, tables) - {os.getuid(), ROOT})
