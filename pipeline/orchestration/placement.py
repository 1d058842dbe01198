"""On which device a stage's worker computes, and by which setting it would ask for less."""

from dataclasses import fields, is_dataclass
from typing import Any

from stages.base import Resources

# What a Ray node offers -> the field of `Resources` (and mostly of an annotator) that asks for it.
ASKS = {"CPU": "cpus", "GPU": "gpus", "memory": "memory_gb"}


def device_of_stage(stage: Any) -> str:
    """`cuda` for stages that ask for a GPU, `cpu` for all others: on Ray as in this process.

    Raises RuntimeError where a GPU is asked for and torch has none here.
    """
    gpus = stage.resources.gpus
    if not gpus:
        return "cpu"
    import torch  # stages without a GPU may do without it, too

    if not torch.cuda.is_available():
        raise RuntimeError(
            f"stage '{stage.name}' asks for gpus={gpus:g}, but torch finds no CUDA device here. "
            f"{less(stage, ['GPU'])}".rstrip()
        )
    return "cuda"


def less(stage: Any, lacking: list[str]) -> str:
    """How to ask for less of what is lacking, in words that `--set` takes."""
    settings = [setting for name in lacking if (setting := setting_of(stage, name))]
    return (
        f"To ask for less: {' '.join(f'--set {setting}' for setting in settings)}"
        if settings
        else ""
    )


def setting_of(stage: Any, lacking: str) -> str | None:
    """The stage's own `resources`, else its annotator's field; None where the code has settled it."""
    part = (
        "annotator" if stage.name.endswith("_annotator") else stage.name
    )  # the experiment's name of such trainings
    name = ASKS[lacking]
    value = "0" if lacking == "GPU" else "..."
    if "resources" in field_names(stage):
        return f"{part}.resources.{name}={value}"
    there = field_names(getattr(stage, "annotator", None))
    if name in there:
        return f"{part}.annotator.{name}={value}"
    if lacking == "memory" and "clips_per_call" in there and stage.annotator.clips_per_call > 1:
        return f"{part}.annotator.clips_per_call=1"
    return None


def field_names(value: Any) -> set[str]:
    return {field.name for field in fields(value)} if is_dataclass(value) else set()


def lacking(needed: Resources, nodes: list[dict[str, float]]) -> list[str]:
    """Of what a worker needs, that of which no node has enough; all of it if each is there, but on
    no node together.
    """
    amounts = amounts_of(needed)
    scarce = [
        name
        for name, amount in amounts.items()
        if all(node.get(name, 0.0) < amount for node in nodes)
    ]
    return scarce or list(amounts)


def amounts_of(resources: Resources) -> dict[str, float]:
    """As Ray counts them."""
    amounts = {"CPU": resources.cpus, "GPU": resources.gpus, "memory": resources.memory_gb * 1e9}
    return {name: amount for name, amount in amounts.items() if amount}
