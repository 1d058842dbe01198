import os

from storage.sources.source_files import (
    SourceFile,
    changes,
    digested,
    fingerprint_of,
    read_source_files,
    write_source_files,
)


def files(**digests: str) -> list[SourceFile]:
    return [SourceFile(path=path, size=1, digest=digest) for path, digest in digests.items()]


def test_changes_are_counted_and_named():
    assert changes(files(a="1"), files(a="1")) == ""
    old, new = files(a="1", b="1", c="1"), files(a="2", b="1", d="1")
    assert changes(old, new) == "1 file changed (a), 1 added (d), 1 removed (c)"
    many = {name: "2" for name in "abcde"}
    assert changes(files(**dict.fromkeys(many, "1")), files(**many)) == (
        "5 files changed (a, b, c, ...)"
    )


def test_names_and_contents_make_the_fingerprint():
    found = {fingerprint_of(x) for x in (files(a="1"), files(a="2"), files(b="1"), files())}
    assert len(found) == 4


def test_tables_come_back_also_with_names_that_are_no_text(tmp_path):
    odd = os.fsdecode(b"caf\xe9.h5")
    (tmp_path / odd).write_bytes(b"x")
    made = digested(tmp_path, [(odd, 1)])
    fingerprint_of(made)
    write_source_files(tmp_path / "files.parquet", made)
    read = read_source_files(tmp_path / "files.parquet")
    assert [(file.size, file.digest) for file in read] == [(1, made[0].digest)]
    assert changes(read, made) == ""
