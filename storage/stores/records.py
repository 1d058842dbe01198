"""The content of a store's JSON files, as dataclasses: its place, recipe and parts.

Every file contains the crc32c of its own content, so that a flipped bit is found.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import crc32c

from storage.cache import cache_home
from storage.errors import CorruptFile
from storage.files import FileRecord, Files
from storage.stores.spec import ArraySpec

STORES = "stores"  # folder of all stores under a root

Kind = Literal["clips", "index", "result"]  # of a store


@dataclass(frozen=True)
class StoreRef:
    """Names one store; passed between the stages. `uri` is `<root>/stores/<stage>/<key>`.

    The root is a local folder or an address such as s3://bucket/prefix.
    """

    uri: str

    def __post_init__(self) -> None:
        parts = self.uri.split("/")
        named = all(part not in ("", ".", "..") for part in parts[-2:])
        if len(parts) < 4 or parts[-3] != STORES or not named:
            raise ValueError(
                f"'{self.uri}' does not name a store; expected <root>/{STORES}/<stage>/<key>"
            )

    @staticmethod
    def at(root: str, stage: str, key: str) -> "StoreRef":
        # Workers run in other folders, so a local path becomes absolute.
        root = root.rstrip("/") if "://" in root else os.path.abspath(root)
        return StoreRef(f"{root}/{STORES}/{stage}/{key}")

    @staticmethod
    def under(root: str, name: str) -> "StoreRef":
        """The store `stage/key` under `root`; of a whole address only these two count."""
        return StoreRef.at(root, *store_name(name).split("/"))

    @property
    def stage(self) -> str:
        return self.uri.split("/")[-2]

    @property
    def key(self) -> str:
        return self.uri.split("/")[-1]

    @property
    def root(self) -> str:
        return self.uri.rsplit("/", 3)[0]

    def __str__(self) -> str:
        return f"{self.stage}/{self.key}"


def store_name(text: str) -> str:
    """`stage/key` of a store that is named so, or by its address in any root."""
    parts = text.split("/")
    is_address = len(parts) >= 4 and parts[-3] == STORES
    if not (is_address or len(parts) == 2) or {"", ".", ".."} & set(parts[-2:]):
        raise ValueError(f"'{text}' does not name a store; expected stage/key")
    return "/".join(parts[-2:])


def cache_folder(ref: StoreRef) -> Path:
    """This machine's folder for a result in an object store; each root has its own."""
    return cache_home() / hashlib.sha256(ref.root.encode()).hexdigest()[:12] / ref.stage / ref.key


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A store's recipe and planned content; written once, before any work.

    parameters, inputs (role -> upstream store) and version are the recipe behind the key. specs,
    n_clips and clips_per_shard are for clip stores, whose rows `index_uri` names. code: git commit,
    whether the tree was dirty, package versions. weights: name, sha256 and licence of each file
    used. attributes: whatever a report should show.

    Other stores are named `stage/key`, relative to the store's own root, so that a root can be
    moved or copied. Older manifests hold addresses: these are shortened, as the stores moved with
    the root.
    """

    stage: str
    key: str
    kind: Kind
    version: int
    parameters: dict[str, Any]
    inputs: dict[str, str]
    specs: tuple[ArraySpec, ...] = ()
    n_clips: int | None = None
    clips_per_shard: int | None = None
    index_uri: str | None = None
    code: dict[str, Any] = field(default_factory=dict)
    weights: list[dict[str, Any]] = field(default_factory=list)
    created: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind == "clips" and not (
            self.specs and self.n_clips is not None and self.clips_per_shard
        ):
            raise ValueError(
                f"store {self.stage}/{self.key} of clips needs specs, n_clips and clips_per_shard; "
                f"found {[s.name for s in self.specs]}, {self.n_clips} and {self.clips_per_shard}"
            )
        names = {role: store_name(name) for role, name in self.inputs.items()}
        object.__setattr__(self, "inputs", names)
        if self.index_uri is not None:
            object.__setattr__(self, "index_uri", store_name(self.index_uri))

    @property
    def input_keys(self) -> dict[str, str]:
        """Role -> key of the upstream store."""
        return {role: name.partition("/")[2] for role, name in self.inputs.items()}

    @property
    def n_shards(self) -> int:
        return -(-(self.n_clips or 0) // (self.clips_per_shard or 1))

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "specs": [_spec_to_json(spec) for spec in self.specs]}

    @staticmethod
    def from_json(plain: Mapping[str, Any]) -> "Manifest":
        specs = tuple(_spec_from_json(spec) for spec in plain["specs"])
        return Manifest(**{**_known(Manifest, plain), "specs": specs})


BY_INPUT = "rejected_by_"  # begins the reason of an `upstream` reject


@dataclass(frozen=True, kw_only=True)
class Reject:
    """A row without data.

    kind: `rejected` by the stage's own rule, `error` if its code raised, `upstream` if an input has
    no data in the row.
    """

    row: int
    clip_id: str
    reason: str
    detail: str
    kind: Literal["rejected", "error", "upstream"]

    @classmethod
    def by_input(cls, row: int, clip_id: str, role: str) -> "Reject":
        """Of a row in which the input of this role has no data."""
        return cls(row=row, clip_id=clip_id, reason=BY_INPUT + role, detail="", kind="upstream")

    @property
    def lacking_input(self) -> str | None:
        """The role of the input that has no data; None if the stage itself has none to give."""
        return self.reason.removeprefix(BY_INPUT) if self.kind == "upstream" else None


@dataclass(frozen=True, kw_only=True)
class PartRecord:
    """One worker's finished shard: its folder and files. Counts only once it is committed.

    chunks: for each shard file the SHA-256 over the crc32c's of its chunks and index. The file's
    own crc32c does not depend on them: bytes followed by their crc32c always give the same one.
    """

    shard: int
    attempt: str
    first_row: int
    n: int
    made: int
    rejects: tuple[Reject, ...]
    files: dict[str, FileRecord]  # by path in the part's folder
    seconds: float
    chunks: dict[str, str] = field(default_factory=dict)  # by path in the part's folder

    def __post_init__(self) -> None:
        for name in (f"{self.attempt}", *self.files):
            require_inside(name, f"the record of shard {self.shard}")
        if "/" in self.attempt:
            raise CorruptFile(f"the record of shard {self.shard} has the attempt '{self.attempt}'")

    @property
    def part(self) -> str:
        """The part's folder, relative to the store's."""
        return f"parts/{self.shard:08d}-{self.attempt}"

    @property
    def commit_path(self) -> str:
        return commit_path(self.shard)

    @property
    def n_bytes(self) -> int:
        return sum(file.size for file in self.files.values())

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(plain: Mapping[str, Any]) -> "PartRecord":
        rejects = tuple(Reject(**_known(Reject, reject)) for reject in plain["rejects"])
        files = {
            path: FileRecord(**_known(FileRecord, file)) for path, file in plain["files"].items()
        }
        return PartRecord(**{**_known(PartRecord, plain), "rejects": rejects, "files": files})


def commit_path(shard: int) -> str:
    return f"commits/{shard:08d}.json"


def shard_of_commit(name: str) -> int | None:
    """The shard of a file in the folder of commits; None for a file of another name."""
    number = name.removesuffix(".json")
    return int(number) if number.isdecimal() and commit_path(int(number)).endswith(name) else None


def read_record(files: Files, path: str) -> PartRecord:
    """The commit at `path` of a store. Raises CorruptFile if it is damaged or another shard's."""
    record = PartRecord.from_json(read_document(files, path))
    if record.commit_path != path:
        raise CorruptFile(
            f"{files.uri}/{path} is the commit of shard {record.shard}: the file was copied or "
            "renamed"
        )
    return record


def require_inside(name: str, where: str) -> None:
    """Raises CorruptFile if a file name that was read from a store leads out of it."""
    if "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise CorruptFile(
            f"{where} names the file {name!r}, which is not in the store: such a store was not "
            "written by this pipeline; do not use it"
        )


def document_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of a document as `read_document` returns it."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def encode_document(content: Mapping[str, Any]) -> bytes:
    """JSON with the content's own crc32c as its last entry."""
    assert "crc32c" not in content, sorted(content)
    plain = json.loads(json.dumps(content, allow_nan=False))  # as it will be read
    return json.dumps({**plain, "crc32c": _checksum(plain)}, indent=1).encode()


def read_document(files: Files, path: str) -> dict[str, Any]:
    """The content of a JSON file of ours. Raises CorruptFile if it was changed."""
    data = files.read(path)
    try:
        content = json.loads(data)
        expected = content.pop("crc32c")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CorruptFile(
            f"{files.uri}/{path} is no longer one of our JSON files: {error!r}"
        ) from error
    found = _checksum(content)
    if found != expected:
        raise CorruptFile(
            f"{files.uri}/{path}: the crc32c of its content is {found}, expected {expected}. It "
            "was changed after it was written: restore it from a backup, or let `roboscape repair` "
            "make again what is damaged."
        )
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"{crc32c.crc32c(text.encode()):08x}"


def _known(kind: type, plain: Mapping[str, Any]) -> dict[str, Any]:
    """Without the fields of later minor versions."""
    return {k: v for k, v in plain.items() if k in kind.__dataclass_fields__}


def _spec_to_json(spec: ArraySpec) -> dict[str, Any]:
    """JSON has no NaN and no infinity: such a fill is written as its name."""
    plain = asdict(spec)
    if isinstance(spec.fill, float) and not math.isfinite(spec.fill):
        plain["fill"] = str(spec.fill)
    return plain


def _spec_from_json(plain: Mapping[str, Any]) -> ArraySpec:
    known = _known(ArraySpec, plain)
    fill = float(known["fill"]) if isinstance(known["fill"], str) else known["fill"]
    return ArraySpec(
        **{**known, "axes": tuple(known["axes"]), "shape": tuple(known["shape"]), "fill": fill}
    )
