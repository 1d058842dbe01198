"""Third-party checkpoints: for any defect of a file, the error names it and says what to do."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model.published_files import check_finite, read_tensors

REFUSED = r"x\.pth: damaged, or holds more than tensors.*Fetch it again"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A whole checkpoint."""
    state = {f"layer{i}.weight": torch.arange(4000.0) + i for i in range(3)}
    torch.save(state, tmp_path / "x.pth")
    return tmp_path / "x.pth"


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"hello world\n", r"it begins with b'hello world\\n', as no checkpoint does\. "),
        (b"<html>not found</html>", r"it begins with b'<html>"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            r"it begins with b'version https://git-lfs",
        ),
        (b"a" * 5000, r"it begins with b'a{24}'"),
        (b"", r"it is empty\. "),
        (b"\x80\x02", ""),
    ],
)
def test_files_that_are_no_checkpoint_are_refused(
    path: Path, content: bytes, found: str, mmap: bool
):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=REFUSED) as refused:
        read_tensors(path, mmap=mmap)
    refused.match(found)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("percent", [0.5, 1, 2, 5, 50, 99])
def test_truncated_files_are_refused(path: Path, percent: float, mmap: bool):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * percent / 100)])
    with pytest.raises(ValueError, match=REFUSED):
        read_tensors(path, mmap=mmap)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("bit", [0, 2, 5, 7])
def test_a_flipped_bit_in_the_header_raises_value_errors_only(path: Path, bit: int):
    """Some flips give another dict, which its names, shapes or digest reveal later."""
    whole = path.read_bytes()
    # Names, types, shapes
    described = slice(whole.index(b"data.pkl"), whole.index(b"layer2.weight") + 200)
    places = range(described.start, described.stop)
    outcomes = [outcome(path, flipped(whole, place, bit), read_tensors) for place in places]
    assert outcomes.count("refused") > len(places) / 4


def flipped(whole: bytes, place: int, bit: int) -> bytes:
    return whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :]


def outcome(path: Path, content: bytes, read: Callable[[Path], object]) -> str:
    """`read` or `refused`, the latter by a ValueError that names the file."""
    path.write_bytes(content)
    try:
        read(path)
    except ValueError as error:
        assert str(error).startswith(f"{path}: "), repr(error)
        return "refused"
    return "read"


def test_errors_of_opening_a_file_are_not_changed(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"gone\.pth"):
        read_tensors(tmp_path / "gone.pth")
    with pytest.raises(IsADirectoryError):
        read_tensors(tmp_path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_the_first_entry_with_nan_is_named(bad: float):
    state = {
        "a": torch.ones(2),
        "n": torch.tensor(3),
        "b": torch.ones(2, 3),
        "c": torch.full((2,), bad),
    }
    check_finite({name: state[name] for name in "anb"}, "x.pth")
    state["b"][1, 2] = bad
    with pytest.raises(
        ValueError, match=r"x\.pth: b has 1 of 6 values that are NaN or infinite: .* make it again"
    ):
        check_finite(state, "x.pth")
