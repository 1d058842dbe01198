"""Fixtures of the tests of storage."""

import os

import pytest


@pytest.fixture(autouse=True)
def no_wait_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush protects from a power cut, which no test can make, and takes up to a second on a busy
    disk.

    That and when it is asked for is tested in `test_files.py`.
    """
    monkeypatch.setattr(os, "fsync", lambda fd: None)
