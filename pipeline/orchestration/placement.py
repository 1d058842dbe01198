"""On which device a stage's worker computes, and by which setting it would ask for less."""

from stages.base import ResourceName, Resources, Stage

# What a Ray node offers -> the field of `Resources` that asks for it.
ASKS: dict[str, ResourceName] = {"CPU": "cpus", "GPU": "gpus", "memory": "memory_gb"}


def device_of_stage(stage: Stage) -> str:
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


def less(stage: Stage, lacking: list[str]) -> str:
    """How to ask for less of what is lacking, in words that `--set` takes."""
    settings = [setting for name in lacking if (setting := stage.ask_for_less(ASKS[name]))]
    if not settings:
        return ""
    return f"To ask for less: {' '.join(f'--set {setting}' for setting in settings)}"


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
