"""Published weights by name: which file, under which licence, from where. Data only."""

from dataclasses import dataclass

from storage.weights.ref import is_non_commercial

HUB = "https://huggingface.co"


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """One file that its authors publish.

    size: bytes; approximate unless `exact`. sha256: as published; where it is empty, the first file
    that is seen is noted and trusted. page: for people. url: the file itself; empty where there is
    no direct link.
    """

    name: str  # what users type, and the name in keys and lineage
    file: str  # its authors' name for it, and ours in the weights folder
    about: str
    licence: str  # SPDX
    used_by: str  # the stage; tokenizers use evaluation's in training, too
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

    @property
    def on_hub(self) -> bool:
        return self.url.startswith(f"{HUB}/")

    def address(self, hub: str = HUB) -> str:
        """Where the file is fetched. hub: a mirror to use in place of Hugging Face's own."""
        return hub.rstrip("/") + self.url.removeprefix(HUB) if self.on_hub else self.url


def _hub_file(
    name: str, *, repository: str, revision: str, file: str, **others
) -> PublishedWeights:
    """A file of a hub repository at a revision, which its address names.

    revision: a commit, whose files never change; or a branch, where no commit is known, whose file
    may change: then only `sha256`, or the digest that the first fetch notes, tells another one.
    """
    page = f"{HUB}/{repository}"
    return PublishedWeights(
        name=name, file=file, page=page, url=f"{page}/resolve/{revision}/{file}", **others
    )


# Names, sizes, digests and licences are from the publishers' own pages; for the metric files of
# Video Depth Anything, and for the exact sizes, from several public projects that pin them. We have
# not downloaded the files ourselves.
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
        size=136_157_212,  # of the 34,039,303 values that we use; the file may have more
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
    _hub_file(
        "i3d-kinetics400",
        repository="flateon/FVD-I3D-torchscript",
        # Its commits are not known here, nor whether the file equals that of StyleGAN-V's authors:
        # the digest of the first file that is fetched is noted
        revision="main",
        file="i3d_torchscript.pt",
        about="FVD: I3D on Kinetics-400, TorchScript",
        licence="Apache-2.0",
        used_by="evaluation",
        size=51_000_000,
        exact=False,
    ),
)


def find_published(name: str) -> PublishedWeights:
    """Raises LookupError naming what there is."""
    found = next((weights for weights in PUBLISHED if weights.name == name), None)
    if found is None:
        raise LookupError(
            f"no published weights '{name}'; there is: {', '.join(w.name for w in PUBLISHED)}"
        )
    return found


def megabytes(n: int) -> str:
    return f"{n / 1e6:.0f} MB" if n >= 1e6 else f"{n / 1e3:.0f} kB"
