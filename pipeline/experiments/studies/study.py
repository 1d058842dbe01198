"""What a study is: an experiment, its variants, seeds, and the statements that it is to settle."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from stages.comparison.verdicts import Claim

Scale = Literal["smoke", "demo", "paper"]
SCALES: tuple[Scale, ...] = get_args(Scale)
SEED = "world_model.training.seed"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The experiment with these parameters changed; about: what it is, in a few words."""

    name: str
    about: str
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ScaleSetting:
    """How a study runs at one scale: on which experiment, with what changed for all, how often."""

    experiment: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    seeds: Sequence[int] = (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class StageNumber:
    """A number of another stage than the evaluation, for the report. text: what it is."""

    stage: str
    name: str
    text: str
    form: str = ".2f"


@dataclass(frozen=True, kw_only=True)
class Study:
    """The first variant is what the others are compared with. numbers: shown beside scores."""

    name: str
    question: str
    variants: Sequence[Variant]
    scales: Mapping[Scale, ScaleSetting]
    claims: Sequence[Claim] = ()
    numbers: Sequence[StageNumber] = ()

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        if len(set(names)) < len(names):
            raise ValueError(f"study {self.name}: variants {', '.join(names)}: one comes twice")
        for claim in self.claims:
            for name in (claim.better, claim.than):
                if name not in names:
                    raise ValueError(
                        f"study {self.name}: a claim names the variant '{name}'; there is: "
                        f"{', '.join(names)}"
                    )

    def only(self, names: Sequence[str]) -> "Study":
        """With these variants alone, and the claims about them. Raises ValueError for another."""
        known = {variant.name: variant for variant in self.variants}
        for name in names:
            if name not in known:
                raise ValueError(
                    f"study {self.name} has no variant '{name}'; there is: {', '.join(known)}"
                )
        return replace(
            self,
            variants=[variant for variant in self.variants if variant.name in names],
            claims=[c for c in self.claims if c.better in names and c.than in names],
        )

    def members(self, scale: Scale, source: str = "") -> list["Member"]:
        """Its runs, seed by seed, so that a study that is stopped has whole seeds."""
        if scale not in self.scales:
            raise ValueError(
                f"study {self.name} has no scale '{scale}'; there is: {', '.join(self.scales)}"
            )
        how = self.scales[scale]
        return [
            Member(
                variant=variant.name,
                seed=seed,
                experiment=how.experiment,
                source=source,
                overrides={**how.overrides, **variant.overrides, SEED: seed},
            )
            for seed in how.seeds
            for variant in self.variants
        ]


@dataclass(frozen=True, kw_only=True)
class Member:
    """One run of a study. source: of its episodes; empty means the experiment's own."""

    variant: str
    seed: int
    experiment: str
    source: str
    overrides: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.variant}, seed {self.seed}"

    def request(self, backend: str | None = None) -> dict[str, Any]:
        """The parameters of its run: `roboscape run` with these makes the same stores."""
        return dict(
            experiment=self.experiment,
            source=self.source,
            overrides=dict(self.overrides),
            backend=backend,
        )

    @property
    def command(self) -> str:
        """The command that makes this run alone."""
        words = ["roboscape", "run", self.experiment]
        words += ["--source", self.source] if self.source else []
        for name, value in self.overrides.items():
            words += ["--set", f"{name}={json.dumps(value)}"]
        return shlex.join(words)
