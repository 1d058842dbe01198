"""Which addresses processes listen on, as `ss -ltnp` shows them, from /proc."""

import os
import struct
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

LISTEN = "0A"


def family(pid: int) -> set[int]:
    """A process and all of its descendants."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # ended meanwhile
            parents[int(folder.name)] = int(fields[1])
    found, size = {pid}, 0
    while size != len(found):
        size = len(found)
        found |= {child for child, parent in parents.items() if parent in found}
    return found


def listening(pids: set[int]) -> list[tuple[int, IPv4Address | IPv6Address, int]]:
    """(process, address, port) of every TCP socket on which they wait for connections."""
    sockets = {}
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTEN:
                address, _, port = fields[1].partition(":")
                sockets[f"socket:[{fields[9]}]"] = (ip(address), int(port, 16))
    found = []
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(link)
            except OSError:
                continue
            if target in sockets:
                found.append((pid, *sockets[target]))
    return found


def ip(text: str) -> IPv4Address | IPv6Address:
    """The kernel prints an address as words in the machine's byte order."""
    words = [int(text[i : i + 8], 16) for i in range(0, len(text), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    if len(words) == 1:
        return IPv4Address(packed)
    mapped = IPv6Address(packed).ipv4_mapped
    return mapped or IPv6Address(packed)


def beyond_loopback(pids: set[int]) -> list[tuple[int, IPv4Address | IPv6Address, int]]:
    return [found for found in listening(pids) if not found[1].is_loopback]
