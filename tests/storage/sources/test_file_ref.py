import io
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.sources.file_ref import FileRef, SourceError

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="\0/\n"), min_size=1, max_size=12
).filter(lambda name: name not in (".", ".."))


@given(
    folder=NAMES,
    name=NAMES,
    offset=st.integers(0, 2**40),
    size=st.integers(0, 2**40),
    packed=st.booleans(),
)
def test_text_round_trips_without_the_root(folder, name, offset, size, packed):
    root = Path("/data")
    if packed:
        ref = FileRef(
            path=root / folder / "1-2.tar", member=f"{folder}/{name}", offset=offset, size=size
        )
    else:
        ref = FileRef(path=root / folder / f"{name}.mp4")
    assert FileRef.parse(ref.text(root), root) == ref
    assert FileRef.parse(ref.text(root), Path("/elsewhere")).path.is_relative_to("/elsewhere")


@given(data=st.data())
def test_a_slice_reads_and_seeks_as_the_file_alone(data, tmp_path_factory):
    content = data.draw(st.binary(max_size=60))
    before = data.draw(st.binary(max_size=20))
    path = tmp_path_factory.mktemp("slice") / "a.tar"
    path.write_bytes(before + content + b"after")
    whole = io.BytesIO(content)
    with FileRef(path=path, member="x", offset=len(before), size=len(content)).open() as part:
        for _ in range(5):
            at = data.draw(st.integers(0, 70))
            assert part.seek(at) == whole.seek(at)
            n = data.draw(st.integers(-1, 70))
            assert part.read(n) == whole.read(n)
            assert part.tell() == whole.tell()
        assert part.seek(0, io.SEEK_END) == len(content)
        with pytest.raises((ValueError, OSError)):
            part.seek(-1)


def test_a_missing_file_and_a_short_tar_say_what_they_are(tmp_path):
    with pytest.raises(SourceError, match=r"gone\.h5: missing_file"):
        FileRef(path=tmp_path / "gone.h5").open()
    tar = tmp_path / "1-2.tar"
    tar.write_bytes(b"abc")
    with pytest.raises(SourceError, match="truncated_tar: found 2 bytes; expected 9"):
        FileRef(path=tar, member="x", offset=1, size=9).read_bytes()


def test_a_source_error_survives_pickling():
    error = SourceError("corrupt_video", "a.mp4", "nothing", "frames")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.reason, again.found) == (str(error), "corrupt_video", "nothing")
