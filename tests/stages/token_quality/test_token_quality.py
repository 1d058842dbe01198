"""What tokens keep: the verdict on tokenizers that erase objects, and the stage on small stores."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from repository import ROOT
from small_stores import run_stage
from small_world import World, make_world, write_square_truth
from torch import Tensor

from stages.objects.masks import TrueObjects
from stages.objects.sightings import without_objects
from stages.token_quality.measures import ClipQuality, DecodedClip, means, measure
from stages.token_quality.pictures import quality_sheet
from stages.token_quality.report import page
from stages.token_quality.stage import TokenQuality
from stages.tokenizer.images import rgb_to_images

LIMITS = TokenQuality(root="").limits
# Frames of the sample, and what they decoded to from the tokens of the tokenizer that shipped up to
# commit 871e604: a grey table with dark arms (tests/support/erasing_frames.py makes the file)
ERASING = ROOT / "tests" / "golden" / "erasing_tokenizer.npz"


@pytest.fixture(scope="module")
def erasing() -> dict[str, np.ndarray]:
    with np.load(ERASING) as arrays:
        return dict(arrays)


def at_rest(masks: np.ndarray) -> TrueObjects:
    return TrueObjects(masks=masks, moved_m=np.zeros((len(masks), 8)))


def quality(camera: Tensor, decoded: Tensor, masks: np.ndarray | None) -> ClipQuality:
    objects = None if masks is None else at_rest(masks)
    return measure(DecodedClip(clip_id="a", camera=camera, decoded=decoded, objects=objects))


def verdict_of(found: ClipQuality) -> str:
    return page([found], LIMITS, side=128).split("\n\n")[1]


@pytest.mark.parametrize("with_masks", [True, False])
def test_a_tokenizer_that_erases_objects_is_not_good(erasing, with_masks):
    camera, decoded = (rgb_to_images(erasing[name]) for name in ("camera", "decoded"))
    found = quality(camera, decoded, erasing["masks"] if with_masks else None)
    assert found.values["psnr"] > 21  # which looks fine
    assert verdict_of(found).startswith("**Not good**")


@pytest.mark.parametrize("with_masks", [True, False])
def test_frames_that_are_perfect_but_for_erased_objects_are_not_good(erasing, with_masks):
    camera, masks = rgb_to_images(erasing["camera"]), erasing["masks"]
    found = quality(camera, without_objects(camera, masks), masks if with_masks else None)
    assert found.values["psnr"] > 24
    assert verdict_of(found).startswith("**Not good**")


def test_grey_frames_are_not_good(erasing):
    camera = rgb_to_images(erasing["camera"])
    grey = camera.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    assert verdict_of(quality(camera, grey, None)).startswith("**Not good**")


@pytest.mark.parametrize("with_masks", [True, False])
def test_the_frames_themselves_are_good_and_hold_the_smallest_object(erasing, with_masks):
    camera = rgb_to_images(erasing["camera"])
    found = quality(camera, camera, erasing["masks"] if with_masks else None)
    assert verdict_of(found).startswith("**Good**")
    if with_masks:
        smallest = min(seen.area for seen in found.seen) * 128**2
        assert f"objects from {smallest:.0f} px on" in verdict_of(found)


def test_the_page_has_every_number_beside_its_control_and_limit(erasing):
    camera, masks = rgb_to_images(erasing["camera"]), erasing["masks"]
    text = page([quality(camera, camera, masks)], LIMITS, side=128)
    (named,) = [line for line in text.splitlines() if "named rightly by colour |" in line]
    cells = [cell.strip() for cell in named.strip("|").split("|")]
    assert cells[1] == "100%" and int(cells[2].rstrip("%")) < 50 and cells[3] == "≥ 90%"


def test_means_of_objects_are_over_sightings_not_over_clips(erasing):
    camera, masks = rgb_to_images(erasing["camera"]), erasing["masks"]
    erased = without_objects(camera, masks)
    one, many = quality(camera[:1], camera[:1], masks[:1]), quality(camera, erased, masks)
    n, all_ = len(one.seen), len(one.seen) + len(many.seen)
    expected = (n + sum(seen.present for seen in many.seen)) / all_
    assert means([one, many])["objects_present"] == pytest.approx(expected)


def test_the_sheet_shows_the_worst_objects_or_squares(erasing):
    camera, decoded = (rgb_to_images(erasing[name]) for name in ("camera", "decoded"))
    for objects in (at_rest(erasing["masks"]), None):
        clip = DecodedClip(clip_id="a", camera=camera, decoded=decoded, objects=objects)
        sheet = quality_sheet([clip], [measure(clip)])
        assert sheet.shape[0] > 300 and sheet.shape[1] > 500


def test_grey_frames_without_masks_are_not_judged():
    grey = torch.full((3, 3, 32, 32), 0.1) + 0.01 * torch.randn(3, 3, 32, 32)
    found = quality(grey, grey + 0.01 * torch.randn(grey.shape), None)
    assert "colour_kept" not in found.values
    assert verdict_of(found).startswith("**Not judged**")


# The stage


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("tokens"))


def run(world: World, root: Path, **changes):
    stage = TokenQuality(root=str(root), **{"n_clips": 3, **changes})
    return run_stage(world.root, stage, world.rows, world.results)


def test_untrained_tokens_are_not_good_and_every_clip_is_counted(world, tmp_path):
    result = run(world, tmp_path)
    assert set(result.files) == {"tokens.md", "tokens.csv", "tokens.json", "tokens.png"}
    assert result.numbers["good"] == 0 and result.numbers["clips_flagged"] == 3
    text = result.file("tokens.md").read_text()
    assert "**Not good**" in text and "no masks of objects" in text
    with result.file("tokens.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 and all("colour_kept" in row["out_of_limits"] for row in rows)
    assert json.loads(result.file("tokens.json").read_text()).keys() >= {"psnr", "detail_psnr"}
    assert Image.open(result.file("tokens.png")).width > 300


def test_bad_tokens_can_be_refused_and_the_message_says_what_to_do(world, tmp_path):
    with pytest.raises(ValueError, match=r"colours kept.*min_colour_kept.*refuse=false"):
        run(world, tmp_path, refuse=True)


def test_limits_decide(world, tmp_path):
    result = run(world, tmp_path, min_colour_kept=-9.0, refuse=True)
    assert result.numbers["good"] == 1


def test_a_stage_of_no_clips_is_refused():
    with pytest.raises(ValueError, match="n_clips=0"):
        TokenQuality(root="", n_clips=0)


def test_objects_of_simulated_episodes_are_found_by_their_ground_truth(world):
    """The masks are those of the clip's own episode and frames."""
    write_square_truth(world)
    result = run(world, world.root, n_clips=4)
    assert {"objects_psnr", "objects_present"} <= set(result.numbers)
    assert "objects named rightly" not in result.file("tokens.md").read_text()  # each is alone
    with result.file("tokens.csv").open(newline="") as file:
        assert [int(row["sightings"]) for row in csv.DictReader(file)] == [16] * 4
