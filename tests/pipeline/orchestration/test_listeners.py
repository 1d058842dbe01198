"""Whose program listens where the Prefect server should."""

import os
import socket
from pathlib import Path

import pytest

from pipeline.orchestration import services
from pipeline.orchestration.listeners import is_taken_by_another_user, listening_users
from pipeline.settings import Settings

HEAD = "sl local_address rem_address st tx_queue rx_queue tr tm->when retrnsmt uid timeout inode"
ROW = "0: {address}:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 {user}"


def table(folder: Path, port: int, user: int, state: str = "0A", address: str = "0100007F") -> Path:
    path = folder / "tcp"
    row = ROW.format(address=address, port=port, state=state, user=user)
    path.write_text(f"{HEAD}\n{row} 0 1\n")
    return path


def test_the_users_of_a_port_are_those_who_listen_there():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert listening_users(port) == {os.getuid()}
        assert not is_taken_by_another_user(port)
    assert listening_users(port) == set()


@pytest.mark.parametrize("address", ["0100007F", "00000000", "0" * 32])
def test_another_user_is_told_apart(tmp_path: Path, address: str):
    other = os.getuid() + 1
    tables = [table(tmp_path, 4211, other, address=address)]
    assert is_taken_by_another_user(4211, tables) and not is_taken_by_another_user(4212, tables)
    connected = [table(tmp_path, 4211, other, state="01")]  # a connection, no server
    assert not is_taken_by_another_user(4211, connected)
    assert not is_taken_by_another_user(4211, [table(tmp_path, 4211, 0)])


def test_a_server_of_another_user_does_not_count_as_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = Settings(home=tmp_path, prefect_port=services.free_port(), prefect_url=None)
    asked = []
    monkeypatch.setattr(services, "is_taken_by_another_user", lambda port: not asked.append(port))
    monkeypatch.setattr(services.urllib.request, "urlopen", lambda *_: pytest.fail("was asked"))
    assert not services.prefect_answers(settings)
    assert asked == [settings.prefect_port]
