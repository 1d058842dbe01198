"""A damaged recording sets a flag; it is counted on every page, can be limited, and left out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from agibot_tree import FakeEpisode, write_tree
from index_store import discover
from machinery import Machinery
from odd_videos import write_numbers
from repository import ROOT
from small_stores import new_result, write_clips, write_index
from small_trainings import world_stage

from pipeline.experiments.world_model import smoke
from pipeline.lineage import page
from pipeline.orchestration.errors import StageFailed
from pipeline.orchestration.journal import start_journal
from pipeline.orchestration.recipe import output_ref
from pipeline.orchestration.stage_task import RunContext, check_made
from stages.clip_choice import choose_clips
from stages.clip_format import ClipFormat
from stages.clips.clip import Clip
from stages.clips.discover import Discover
from stages.flag_counts import flag_counts
from stages.flags import FLAGS, all_flagged
from stages.label_quality.measures import FLAGS as LABEL_FLAGS
from stages.label_quality.stage import LabelQuality
from storage.stores.records import StoreRef
from storage.stores.results import open_result, open_writer
from storage.stores.rows import Rows, open_rows


class Damaged:
    """Two episodes, one whose video lost three frames in the middle (as `../shared/cases/04`)."""

    def __init__(self, folder: Path):
        lossy, sound = FakeEpisode(n=500), FakeEpisode(episode=648649, task=351, n=260)
        root = write_tree(folder / "episodes", lossy, sound)
        kept = [i for i in range(500) if i not in (250, 251, 252)]
        write_numbers(root / lossy.videos / "head_color.mp4", kept, kept)
        index = discover(Discover.of(root, val_share=0.5), folder / "home")[0]
        self.stage = Clip(root=str(root), clip_format=ClipFormat(size=32))
        machinery = Machinery(str(folder / "home"), folder / "faults")
        machinery.run(self.stage, {"discover": index.ref})
        self.root, self.index = machinery.root, index
        self.clips = output_ref(self.stage, {"discover": index.ref}, machinery.root)

    @property
    def rows(self) -> dict[str, Rows]:
        return {"discover": self.index, "clip": open_rows(self.clips)}

    @property
    def flagged(self) -> list[int]:
        clips = open_rows(self.clips)
        episode = self.index.gather("episode", np.arange(clips.n))
        return np.flatnonzero(clips.ok & (episode != 648649)).tolist()


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Damaged:
    return Damaged(tmp_path_factory.mktemp("damaged"))


def page_of(ref: StoreRef) -> str:
    return page.markdown(ref, "Completed", {}, None)


def test_flagged_clips_are_counted_on_the_stages_page_and_on_those_downstream(damaged):
    n, made = len(damaged.flagged), int(open_rows(damaged.clips).ok.sum())
    assert 0 < n < made
    line = f"| clip | flagged: count_mismatch | {n} of {made} clips | video, rows and extrinsics"
    own = page_of(damaged.clips)
    assert line in own and "| clip | rejected" not in own, "the counts have these"
    below = new_result(Path(damaged.root), "world_model", [], {"clip": damaged.clips})
    writer = open_writer(below)
    writer.finish({"steps": 1.0})
    text = page.markdown(below, "Completed", {}, open_result(below))
    assert line in text and "| clip | rejected: lost_frames | " in text


def test_a_sound_store_has_no_doubts(tmp_path):
    index = write_index(tmp_path, ["train"] * 3)
    clips = write_clips(index, "clip", {"flags": np.zeros((3, 10), bool)})
    assert "## Doubts" not in page_of(clips)


def test_a_verdict_of_the_tokens_stands_on_the_pages_of_what_reads_them(tmp_path):
    index = write_index(tmp_path, ["train"] * 3)
    tokens = write_clips(index, "rgb_tokens", {"rgb_tokens": np.zeros((3, 2), np.int32)})
    for key, numbers in (("a", {"good": 1.0}), ("b", {"good": 0.0})):
        judged = new_result(tmp_path, "token_quality", key, {"rgb_tokens": tokens})
        open_writer(judged).finish({"clips": 2.0, "clips_flagged": 1.0, **numbers})
        model = new_result(tmp_path, "world_model", key, {"rgb_tokens": tokens})
        open_writer(model).finish({})
        text = page.markdown(model, "Completed", {}, open_result(model))
        found = "| token_quality | tokens not good | 1 of 2 clips out of a limit |" in text
        assert found == (numbers["good"] == 0)
        assert "tokens not good" not in page.markdown(judged, "Completed", {}, open_result(judged))


def test_clips_are_left_out_by_the_name_of_a_flag(damaged):
    index = damaged.index
    split = str(index.gather("split", np.array(damaged.flagged[:1]))[0])
    kept = choose_clips(damaged.rows, split, ())
    assert set(damaged.flagged) <= set(kept.rows.tolist())
    n = len(damaged.flagged)
    assert kept.kept == {"count_mismatch": n} and "None left out" in kept.text
    chosen = choose_clips(damaged.rows, split, ("count_mismatch", "zero_quaternion"))
    assert not set(damaged.flagged) & set(chosen.rows.tolist())
    assert f"{n} left out for flags: count_mismatch {n}." in chosen.text
    assert f"{len(chosen.rows)} clips of split '{split}' used, their flags: none." in chosen.text
    with pytest.raises(ValueError, match=r"names \['flicker'\], but the stores here have"):
        choose_clips(damaged.rows, split, ("flicker",))


def test_too_many_flagged_clips_are_refused_and_a_higher_limit_makes_nothing_again(
    damaged, tmp_path
):
    limited = replace(damaged.stage, max_flagged_share=0.1)
    inputs = {"discover": damaged.index.ref}
    assert output_ref(limited, inputs, damaged.root) == damaged.clips
    journal = start_journal(tmp_path / "runs", {})
    context = RunContext(root=damaged.root, journal=journal)
    found = rf"{len(damaged.flagged)} of .*are flagged: count_mismatch.*max_flagged_share=0.1"
    with pytest.raises(StageFailed, match=found):
        check_made(limited, damaged.clips, context)
    assert journal.entry("clip").state == "failed"
    check_made(replace(damaged.stage, max_flagged_share=0.9), damaged.clips, context)
    check_made(damaged.stage, damaged.clips, context)


def test_facts_about_the_robot_are_no_doubt_and_labels_have_a_limit_too(tmp_path):
    index = write_index(tmp_path, ["train"] * 4)
    flags = np.zeros((4, 10), bool)
    flags[:, [name == "hand_effector" for name in list(FLAGS)[:10]]] = True
    clips = open_rows(write_clips(index, "clip", {"flags": flags}))
    assert flag_counts(all_flagged({"clip": clips}, np.arange(4))) == {"hand_effector": 4}
    Clip(root="", max_flagged_share=0.0).check_made(clips)
    bits = np.array([0, 1, 3, 0], np.uint8)
    quality = open_rows(write_clips(index, "label_quality", {"flags": bits}))
    LabelQuality(max_flagged_share=0.5).check_made(quality)
    with pytest.raises(ValueError, match=r"2 of 4.*flicker 2, depth_jump 1.*share=0\.25"):
        LabelQuality(max_flagged_share=0.25).check_made(quality)
    counts = flag_counts(all_flagged({"clip": clips, "label_quality": quality}, np.array([2, 3])))
    assert counts == {"hand_effector": 2, "flicker": 1, "depth_jump": 1}


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_limits_that_are_no_shares_are_refused(share):
    with pytest.raises(ValueError, match="expected a share between 0 and 1"):
        Clip(root="", max_flagged_share=share)
    with pytest.raises(ValueError, match="expected a share between 0 and 1"):
        LabelQuality(max_flagged_share=share)


def test_flags_that_do_not_exist_are_refused_and_the_evaluation_follows_the_training(tree):
    with pytest.raises(ValueError, match=r"drop_flags=\['count_missmatch'\]: expected a list of"):
        world_stage(drop_flags=("count_missmatch",))
    e = smoke(tree, tree)
    changed = e.vary({"world_model": replace(e.world_model, drop_flags=("count_mismatch",))})
    assert changed.evaluation.drop_flags == ("count_mismatch",)
    own = e.vary(
        {
            "world_model": replace(e.world_model, drop_flags=("flicker",)),
            "evaluation": replace(e.evaluation, drop_flags=("count_mismatch",)),
        },
        given=("evaluation.drop_flags",),
    )
    assert own.evaluation.drop_flags == ("count_mismatch",)
    assert "label_quality" not in own.evaluation.inputs
    assert "label_quality" in world_stage(drop_flagged=False, drop_flags=("flicker",)).inputs


def test_the_docs_name_every_flag_with_its_meaning():
    text = (ROOT / "docs/reliability.md").read_text()
    for flag in FLAGS.values():
        assert f"| `{flag.name}` | `{flag.stage}` | {flag.about} |" in text, flag.name
    assert len(FLAGS) == 10 + len(LABEL_FLAGS)
