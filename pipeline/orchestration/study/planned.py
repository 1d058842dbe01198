"""A study before it runs: its members' stores, which of them they share, and what is to be made."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from model.world.flops import training_flops
from pipeline.experiments.studies.study import Member, Scale, StageNumber, Study
from pipeline.orchestration.disk_estimate import RunEstimate, estimate
from pipeline.orchestration.plan import Planner, planned
from pipeline.settings import Settings
from stages.base import Stage
from stages.clips.clip import Clip
from stages.world_model.train import TrainWorldModel
from storage.stores import store
from storage.stores.records import StoreRef
from storage.stores.results import open_result


@dataclass(frozen=True, kw_only=True)
class PlannedMember:
    """A run and the stores that it needs, in the order in which they are made."""

    member: Member
    planner: Planner

    @property
    def stores(self) -> list[StoreRef]:
        return [ref for _, _, ref in self.planner.planned.values()]

    @property
    def evaluation(self) -> StoreRef:
        return self.planner.planned["evaluation"][2]

    def number(self, wanted: StageNumber) -> float | None:
        """Of one of its stages; None where that was not measured."""
        return open_result(self.planner.planned[wanted.stage][2]).numbers.get(wanted.name)

    @property
    def missing(self) -> set[str]:
        """Addresses of what is not complete now."""
        return {ref.uri for ref in self.stores if not store.is_complete(ref)}

    @property
    def training_flops(self) -> float:
        """Of its world model, all steps."""
        stage = self.planner.planned["world_model"][0]
        assert isinstance(stage, TrainWorldModel), stage
        clips = stage.clips_per_batch * stage.training.grad_accum_steps * stage.training.steps
        return clips * training_flops(stage.model, stage.masking, stage.model.n_frames)


@dataclass(frozen=True)
class StudyPlan:
    """members: in the order in which they are to run, whole seeds first."""

    study: Study
    scale: Scale
    members: Sequence[PlannedMember]
    settings: Settings = field(repr=False)

    @property
    def rate_hz(self) -> float:
        """Of the clips."""
        stage = self.members[0].planner.planned["clip"][0]
        assert isinstance(stage, Clip), stage
        return stage.clip_format.rate_hz

    @cached_property
    def missing(self) -> dict[str, str]:
        """Address -> stage of each store that is not complete; shared ones once."""
        return {
            ref.uri: ref.stage
            for each in self.members
            for ref in each.stores
            if not store.is_complete(ref)
        }

    @property
    def by_stage(self) -> dict[str, tuple[int, int, int]]:
        """Stage -> how many of its stores the members need, how many are there, and are made."""
        needed = {ref.uri: ref.stage for each in self.members for ref in each.stores}
        all_of, missing = Counter(needed.values()), Counter(self.missing.values())
        return {stage: (n, n - missing[stage], missing[stage]) for stage, n in all_of.items()}

    @property
    def training_flops(self) -> float:
        """Of the world models that are not there yet."""
        by_store = {
            each.planner.planned["world_model"][2].uri: each.training_flops for each in self.members
        }
        return sum(flops for uri, flops in by_store.items() if uri in self.missing)

    @property
    def by_store(self) -> Planner:
        """All stages, each store once: named by its address, not by its stage as in one run."""
        entries = {e[2].uri: e for each in self.members for e in each.planner.planned.values()}
        return Planner(root=self.settings.stores, planned=entries)

    @property
    def stages_to_make(self) -> list[Stage]:
        return [e[0] for uri, e in self.by_store.planned.items() if uri in self.missing]

    @cached_property
    def space(self) -> RunEstimate:
        """What all of it writes."""
        return estimate(self.by_store)


def plan_study(
    study: Study, scale: Scale, source: str, settings: Settings, backend: str | None = None
) -> StudyPlan:
    """Raises what `named` raises; a ValueError names the variant whose run cannot be built."""
    members = []
    for member in study.members(scale, source):
        try:
            planner = planned(member.request(backend), settings)
        except ValueError as error:
            raise ValueError(f"variant '{member.variant}' of {study.name}: {error}") from error
        members.append(PlannedMember(member=member, planner=planner))
    return StudyPlan(study, scale, members, settings)


def room_for(members: Sequence[PlannedMember]) -> int:
    """How many runs this machine's cores hold at once, by what a training of one takes."""
    stages = [each.planner.planned["world_model"][0] for each in members]
    cpus = max(stage.resources.cpus * getattr(stage, "workers", 1) for stage in stages)
    return max(1, int((os.cpu_count() or 1) / cpus))
