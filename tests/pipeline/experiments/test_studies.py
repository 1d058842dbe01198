"""Every study can be planned at every scale, varies what it says, and shares what it can."""

from dataclasses import replace
from pathlib import Path

import pytest
from test_golden_keys import SOURCE, make_inputs

from model.world.config import LossConfig
from pipeline.experiments.studies.ablations import ABLATIONS
from pipeline.experiments.studies.catalogue import STUDIES, named_study
from pipeline.experiments.studies.label_noise import LABEL_NOISE
from pipeline.experiments.studies.study import SCALES, Study, Variant
from pipeline.orchestration.study.planned import PlannedMember, plan_study
from pipeline.settings import Settings
from stages.comparison.contrasts import PSNR
from stages.comparison.verdicts import Claim
from storage.weights import catalogue as published_weights

CASES = [(study.name, scale) for study in STUDIES.values() for scale in study.scales]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in make_inputs(tmp_path).items():
        monkeypatch.setenv(name, value)
    entries = tuple(replace(entry, sha256="") for entry in published_weights.PUBLISHED)
    monkeypatch.setattr(published_weights, "PUBLISHED", entries)
    monkeypatch.setattr("stages.clips.discover.fingerprint", lambda root: SOURCE)
    return Settings()


def planned(name: str, scale, settings: Settings) -> list[PlannedMember]:
    source = settings.home.parent / "source"
    return list(plan_study(named_study(name), scale, str(source), settings).members)


@pytest.mark.parametrize(("name", "scale"), CASES)
def test_every_variant_is_a_run_of_its_own(name, scale, settings):
    members = planned(name, scale, settings)
    study = named_study(name)
    assert len(members) == len(study.variants) * len(study.scales[scale].seeds)
    assert len({each.evaluation.uri for each in members}) == len(members)
    # Clips do not depend on the variant
    assert len({each.planner.planned["clip"][2].uri for each in members}) == 1
    assert scale != "demo" or len(study.scales[scale].seeds) >= 3


def test_the_ablations_are_what_their_names_say(settings):
    stages = {
        each.member.variant: each.planner.planned["world_model"][0]
        for each in planned("ablations", "smoke", settings)
    }
    assert stages["full"].loss == LossConfig() and stages["full"].model.depth_branch
    assert stages["no keypoints"].loss == LossConfig(keypoint=0.0)
    assert stages["no attention"].loss == LossConfig(attention=0.0)
    assert not stages["no depth"].model.depth_branch and stages["no depth"].loss == LossConfig()
    none = stages["none"]
    assert (none.loss.weights.keys(), none.model.branches) == ({"rgb", "depth"}, ("rgb",))
    genie = stages["genie"]
    assert genie.loss.weights == {"rgb": 1.0} and genie.model.norms == "1xgpt"
    assert genie.model.action_conditioning == "add"
    assert {stage.training for stage in stages.values()} == {stages["full"].training}


def test_variants_share_all_but_what_they_change(settings):
    source = str(settings.home.parent / "source")
    plan = plan_study(ABLATIONS, "demo", source, settings)
    n = 3 * len(ABLATIONS.variants)
    assert plan.by_stage["rgb_tokens"] == (1, 0, 1)
    assert plan.by_stage["world_model"] == (n, 0, n)
    assert plan.training_flops == pytest.approx(sum(each.training_flops for each in plan.members))
    seeds = [each.member.seed for each in plan.members]
    assert seeds == sorted(seeds), "a study that is stopped has whole seeds"


def test_noise_is_added_to_exact_labels_and_to_one_kind_at_a_time(settings):
    for each in planned("label-noise", "smoke", settings):
        depth, tracks = (each.planner.planned[name][0] for name in ("depth", "keypoints"))
        annotator, _, kind = each.member.variant.partition(" ")
        expected = (
            annotator if kind == "depth" else "truth",
            annotator if kind == "tracks" else "truth",
        )
        assert (depth.annotator.name, tracks.annotator.name) == expected
        assert (depth.spoil is not None) == each.member.variant.startswith("depth")
        assert (tracks.spoil is not None) == each.member.variant.startswith("track ")


def test_the_command_of_a_member_makes_the_same_run(settings):
    """Every change survives the shell's quoting and JSON."""
    import shlex

    from pipeline.cli.options import parse_overrides

    for each in planned("label-noise", "demo", settings):
        words = shlex.split(each.member.command)
        changes = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
        assert parse_overrides(changes) == dict(each.member.overrides)
        assert words[:3] == ["roboscape", "run", "study"]


def test_some_variants_alone_keep_the_claims_about_them():
    some = ABLATIONS.only(["genie", "full"])
    assert [variant.name for variant in some.variants] == ["full", "genie"]
    assert {(claim.better, claim.than) for claim in some.claims} == {("full", "genie")}
    with pytest.raises(ValueError, match="ablations has no variant 'gene'; there is: full, "):
        ABLATIONS.only(["gene"])


def test_a_study_that_is_wrong_says_where(settings, tmp_path):
    with pytest.raises(ValueError, match="no study 'nope'; there is: ablations, "):
        named_study("nope")
    with pytest.raises(ValueError, match="label-noise has no scale 'paper'; there is: smoke, demo"):
        LABEL_NOISE.members("paper")
    bad = Variant(name="bad", about="", overrides={"world_model.loss.keypoints": 0})
    study = replace(ABLATIONS, variants=(*ABLATIONS.variants, bad))
    with pytest.raises(ValueError, match=r"variant 'bad' of ablations: .*no field 'keypoints'"):
        plan_study(study, "smoke", str(settings.home.parent / "source"), settings)
    with pytest.raises(ValueError, match="one comes twice"):
        replace(ABLATIONS, variants=(bad, bad), claims=())
    claim = Claim(text="x", better="full", than="nobody", place=PSNR)
    with pytest.raises(ValueError, match="a claim names the variant 'nobody'"):
        replace(ABLATIONS, claims=(claim,))
    assert set(SCALES) == {"smoke", "demo", "paper"} and isinstance(study, Study)
