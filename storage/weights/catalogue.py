"""Weights that others publish, by name: which file, under whose terms, from where; and the folder
in which they lie.

A name goes in, a `WeightsRef` with digest and licence comes out. Nothing here goes to the network:
`storage.weights.download` does, and only when the user asks for it. What lies in the folder is
noted in its `weights.json`.
"""

import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from storage.atomic import make_folder
from storage.errors import WeightsError
from storage.files import LocalFiles
from storage.weights.ref import WeightsRef, is_non_commercial

HUB = "https://huggingface.co"
RECORDS = "weights.json"
DIGITS = 12  # of a digest, in what people read


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """One file that its authors publish.

    size: bytes; only about right unless `exact`. sha256: as published; empty where we know of none,
    and then the first file that is seen is noted and trusted. page: for people. url: the file
    itself, empty where there is no direct link.
    """

    name: str  # what users type, and the name in keys and lineage
    file: str  # its authors' name for it, and ours in the weights folder
    about: str
    licence: str  # SPDX
    used_by: str  # the stage; evaluation's are of use in tokenizers' trainings, too
    size: int
    exact: bool = True
    sha256: str = ""
    page: str
    url: str = ""

    @property
    def non_commercial(self) -> bool:
        return is_non_commercial(self.licence)

    @property
    def size_text(self) -> str:
        return ("" if self.exact else "about ") + megabytes(self.size)

    def address(self, hub: str = HUB) -> str:
        """Where the file is fetched; `hub` is a mirror to use in place of Hugging Face's."""
        return (
            hub.rstrip("/") + self.url.removeprefix(HUB)
            if self.url.startswith(HUB + "/")
            else self.url
        )


def _hub_file(
    name: str, *, repository: str, revision: str, file: str, **others
) -> PublishedWeights:
    """A file in a repository of the hub, at one commit: what is fetched is then always the same."""
    page = f"{HUB}/{repository}"
    return PublishedWeights(
        name=name, file=file, page=page, url=f"{page}/resolve/{revision}/{file}", **others
    )


# Names, sizes, digests and licences are those on the publishers' own pages; for the metric files of
# Video Depth Anything and for the exact sizes, those which several public projects pin. We have not
# downloaded the files ourselves.
PUBLISHED: tuple[PublishedWeights, ...] = (
    _hub_file(
        "vda-vits",
        repository="depth-anything/Video-Depth-Anything-Small",
        revision="256875362cff76724b920335dfb4b29dd611f66e",
        file="video_depth_anything_vits.pth",
        about="Video Depth Anything, small",
        licence="Apache-2.0",
        used_by="depth",
        size=116_440_756,
        sha256="13379300b739e659f076a59d52e9801bd8d38c541a7e71f73bbca4dcfb013609",
    ),
    _hub_file(
        "vda-vitb",
        repository="depth-anything/Video-Depth-Anything-Base",
        revision="7231d0c6e260f54f103eba5005d01f6efa4f43db",
        file="video_depth_anything_vitb.pth",
        about="Video Depth Anything, base",
        licence="CC-BY-NC-4.0",
        used_by="depth",
        size=458_247_082,
        sha256="775e578e8f9431ec0496514aa466bd0a1f67c28d0f518267809f35a43c04329b",
    ),
    _hub_file(
        "vda-vitl",
        repository="depth-anything/Video-Depth-Anything-Large",
        revision="7aafbcb5c6af0bac741aad2b6471894fb4761afa",
        file="video_depth_anything_vitl.pth",
        about="Video Depth Anything, large",
        licence="CC-BY-NC-4.0",
        used_by="depth",
        size=1_538_392_012,
        sha256="43df27c6b396042ba34ff7b798ab279f64d204d2e86d7a373968f8fa36d0e6fa",
    ),
    _hub_file(
        "vda-vits-metric",
        repository="depth-anything/Metric-Video-Depth-Anything-Small",
        revision="273d090f2ce17df50c2872d82c8322c45da5b4dd",
        file="metric_video_depth_anything_vits.pth",
        about="Video Depth Anything, small, metres",
        licence="Apache-2.0",
        used_by="depth",
        size=116_444_063,
        sha256="3c28432b4e1f0d7bb31cad5151b6313b49457db5aa58d82e85bfb0f8b1311b33",
    ),
    _hub_file(
        "vda-vitb-metric",
        repository="depth-anything/Metric-Video-Depth-Anything-Base",
        revision="f6a245abad4b5a5b0d26722c8e1767ef310c547d",
        file="metric_video_depth_anything_vitb.pth",
        about="Video Depth Anything, base, metres",
        licence="CC-BY-NC-4.0",
        used_by="depth",
        size=458_249_567,
        sha256="f6f58576b9680a112f2428d4f39aff92656d3ae85745b0164675ace8d5b1fade",
    ),
    _hub_file(
        "vda-vitl-metric",
        repository="depth-anything/Metric-Video-Depth-Anything-Large",
        revision="607fcdbd454b95c3bd39abbd3054142869a527d3",
        file="metric_video_depth_anything_vitl.pth",
        about="Video Depth Anything, large, metres",
        licence="CC-BY-NC-4.0",
        used_by="depth",
        size=1_538_348_216,
        sha256="24eba25342e7ee0f054be25da6a852ebd7cfa40cd6bf41a353ecb6abfe24e620",
    ),
    PublishedWeights(
        name="spatracker",
        file="spaT_final.pth",
        about="SpatialTracker",
        licence="CC-BY-NC-4.0",
        used_by="keypoints",
        size=136_157_212,  # of the 34,039,303 values that we use; the file may hold more
        exact=False,
        page="https://drive.google.com/drive/folders/1UtzUJLPhJdUg2XvemXXz1oe6KUQKVjsZ",
    ),
    _hub_file(
        "magvit2-1x",
        repository="datasets/1x-technologies/worldmodel",
        revision="333af844f1ed0b75861c8eded696c24a12b17ecc",
        file="magvit2.ckpt",
        about="MAGVIT-2 tokenizer of 1X, which RoboScape uses",
        licence="Apache-2.0",
        used_by="tokenizers",
        size=1_150_000_000,
        exact=False,
        sha256="5324feabfec9599e2989a5c377bbc211bc05a96fa963f6d96f3ee8be0a83fac9",
    ),
    _hub_file(
        "magvit2-tencent",
        repository="TencentARC/Open-MAGVIT2-Tokenizer-262144-Pretrain",
        revision="54df234dec28d7396ee42f7bc5f87111584ab0db",
        file="pretrain256_262144.ckpt",
        about="Open-MAGVIT2 tokenizer of TencentARC",
        licence="Apache-2.0",
        used_by="tokenizers",
        size=921_000_000,
        exact=False,
    ),
    PublishedWeights(
        name="lpips-alexnet",
        file="alexnet-owt-7be5be79.pth",
        about="LPIPS: torchvision's AlexNet",
        licence="BSD-3-Clause",
        used_by="evaluation",
        size=244_408_911,
        sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        page="https://pytorch.org/vision/stable/models/generated/torchvision.models.alexnet.html",
        url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    ),
    PublishedWeights(
        name="lpips-linear",
        file="alex.pth",
        about="LPIPS v0.1: linear heads for AlexNet",
        licence="BSD-2-Clause",
        used_by="evaluation",
        size=6_009,
        sha256="df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        page="https://github.com/richzhang/PerceptualSimilarity/tree/master/lpips/weights/v0.1",
        url=(
            "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/"
            "082bb24f84c091ea94de2867d34c4544f68e0963/lpips/weights/v0.1/alex.pth"
        ),
    ),
)


# What a file's digest was compared with when it was noted: the one in PUBLISHED, the one that its
# publisher's server stated while sending it, or nothing (the file was simply the first one seen).
Basis = Literal["published", "server", "first use"]


@dataclass(frozen=True, kw_only=True)
class WeightsRecord:
    """One entry of `weights.json`: what was found under a name, and when."""

    name: str
    file: str
    sha256: str
    size: int
    licence: str
    url: str
    date: str
    basis: Basis


def find_published(name: str) -> PublishedWeights:
    """Raises LookupError naming what there is."""
    found = next((weights for weights in PUBLISHED if weights.name == name), None)
    if found is None:
        raise LookupError(
            f"no published weights '{name}'; there is: {', '.join(w.name for w in PUBLISHED)}"
        )
    return found


def published(
    name_or_path: str, folder: Path, say: Callable[[str], None] | None = None
) -> WeightsRef:
    """The weights of a name in PUBLISHED, which lie in `folder`, or the file at a path, wherever it
    lies.

    A file that nobody has noted yet is hashed and noted in the folder's `weights.json`, and `say`
    (default: a line on stderr) tells so. A file given by its path has the name and licence of the
    published one that it equals, else none.

    Raises WeightsError if the file is missing (saying how to get it) or is another one than
    published or noted; LookupError for what is neither a name nor a file.
    """
    weights = next((w for w in PUBLISHED if w.name == name_or_path), None)
    if weights is None:
        return _at_path(name_or_path, folder)
    path = folder / weights.file
    if not path.is_file():
        raise WeightsError(missing_text(weights, folder))
    ref = WeightsRef.of(path, name=weights.name, licence=weights.licence)
    if check(weights, folder, ref.sha256) is None:
        basis: Basis = "published" if weights.sha256 else "first use"
        told = _note(weights, folder, ref.sha256, basis)
        (say or _to_stderr)(
            f"weights '{weights.name}': {path} has the SHA-256 {ref.sha256}; {told}"
        )
    return ref


def check(weights: PublishedWeights, folder: Path, sha256: str) -> WeightsRecord | None:
    """The record of a file with this digest; None if there is none yet.

    Raises WeightsError if another digest is published or noted.
    """
    record = read_records(folder).get(weights.name)
    expected = weights.sha256 or (record.sha256 if record else "")
    if expected and sha256 != expected:
        noted_on = record.date if record else "an earlier day"
        source = (
            "its authors publish"
            if weights.sha256
            else f"was noted in {folder / RECORDS} on {noted_on}"
        )
        again = (
            ""
            if weights.sha256
            else f" If its authors replaced it, take its entry out of {RECORDS}."
        )
        raise WeightsError(
            f"weights '{weights.name}': {folder / weights.file} has the SHA-256 {sha256}, but {expected} {source}. It "
            f"is incomplete or another file: delete it and get it again.{again} To use the file that is there, name it "
            f"by its path in place of '{weights.name}'.\n{how_to_get(weights, folder)}"
        )
    return record if record and record.sha256 == sha256 else None


def require(names: Iterable[str], folder: Path) -> None:
    """Raises WeightsError naming every file among these that is not in the folder, and how to get
    it.
    """
    missing = [w for w in map(find_published, names) if not (folder / w.file).is_file()]
    if missing:
        raise WeightsError("\n".join(missing_text(weights, folder) for weights in missing))


def missing_text(weights: PublishedWeights, folder: Path) -> str:
    terms = (
        f"{weights.licence}, not for commercial use" if weights.non_commercial else weights.licence
    )
    what = f"{weights.about}, {weights.size_text}, {terms}"
    return f"weights '{weights.name}' ({what}): there is no file {folder / weights.file}\n{how_to_get(weights, folder)}"


def how_to_get(weights: PublishedWeights, folder: Path) -> str:
    if weights.url:
        by_hand = f"by hand: {weights.url}, put at {folder / weights.file}"
        return f"  `roboscape weights fetch {weights.name}` gets it from {weights.page}; {by_hand}"
    return (
        f"  There is no direct link: open {weights.page}, download {weights.file} and put it at "
        f"{folder / weights.file}; then `roboscape weights fetch {weights.name}` checks and notes it"
    )


def read_records(folder: Path) -> dict[str, WeightsRecord]:
    """By name. Raises WeightsError if `weights.json` cannot be read as such."""
    path = folder / RECORDS
    try:
        plain = json.loads(path.read_text())
        return {name: WeightsRecord(name=name, **entry) for name, entry in plain.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path} is not as it was written ({error}): mend it, or delete it, and the files beside it are noted anew "
            "when they are next used"
        ) from error


def write_record(
    weights: PublishedWeights, folder: Path, sha256: str, basis: Basis
) -> WeightsRecord:
    """Notes the file in `weights.json`, in place of what was noted under its name before."""
    record = WeightsRecord(
        name=weights.name,
        file=weights.file,
        sha256=sha256,
        size=(folder / weights.file).stat().st_size,
        licence=weights.licence,
        url=weights.url or weights.page,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        basis=basis,
    )
    with _locked(folder):
        records = read_records(folder) | {weights.name: record}
        plain = {
            name: {k: v for k, v in asdict(entry).items() if k != "name"}
            for name, entry in records.items()
        }
        LocalFiles(str(folder)).write(RECORDS, [json.dumps(plain, indent=1).encode()])
    return record


def megabytes(n: int) -> str:
    return f"{n / 1e6:.0f} MB" if n >= 1e6 else f"{n / 1e3:.0f} kB"


def _at_path(path: str, folder: Path) -> WeightsRef:
    if not Path(path).is_file():
        if os.sep in path or "." in path:
            raise WeightsError(f"there is no weights file {path}")
        find_published(path)  # raises
    ref = WeightsRef.of(path)
    noted = {record.sha256: name for name, record in read_records(folder).items()}
    for weights in PUBLISHED:
        same = weights.sha256 == ref.sha256 or noted.get(ref.sha256) == weights.name
        # Of a file whose digest nobody publishes the name must do: better a licence too many than
        # one forgotten.
        if same or (not weights.sha256 and Path(path).name == weights.file):
            return replace(ref, name=weights.name, licence=weights.licence)
    return ref


def _note(weights: PublishedWeights, folder: Path, sha256: str, basis: Basis) -> str:
    """Writes the record, where the folder lets us; returns what to say of it."""
    what = (
        "the published one"
        if basis == "published"
        else "nothing to compare it with, so it is trusted"
    )
    try:
        write_record(weights, folder, sha256, basis)
    except OSError as error:  # a folder that others share read-only
        return f"{what}, but not noted in {folder / RECORDS}: {error.strerror}"
    return f"{what}, and noted in {folder / RECORDS}"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time changes `weights.json`."""
    make_folder(folder)
    with (folder / f"{RECORDS}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)
