"""Generation and training of the world model against the plain way, as ratios of one run.

    python benchmarks/world_model.py                        # CPU, one thread: tiny and small
    python benchmarks/world_model.py --training small       # also a training step of the small one
    python benchmarks/world_model.py --device cuda          # small, medium and large, one clip
    python benchmarks/world_model.py --device cuda --clips 64 --training
    PEER_1XGPT=../1xgpt python benchmarks/world_model.py    # also against that peer

The plain way recomputes the whole window of 16 frames in every MaskGIT step and keeps nothing; with
unfused attention it also multiplies attention out. Weights are random: speed does not depend on
them. `small` has 35 M parameters a branch, and two branches. A GPU works in bfloat16, a CPU in
float32. Before anything is timed, the tokens of both ways are compared. Ratios are of the least
times, and in brackets of the medians.
"""

import argparse
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads must not spin

import torch
from measuring import Conditions, table
from peer_1xgpt import against_the_peer, load_peer
from world_cases import SIZES, limits, make_case
from world_generation import (
    Plan,
    against_the_machine,
    against_the_plain_way,
    cache_memory,
    two_branches_against_one,
    with_pixels,
)
from world_training import peak_memory, training


def main() -> None:
    arguments = parse()
    device = torch.device(arguments.device)
    torch.set_num_threads(arguments.threads)
    torch.backends.cuda.matmul.allow_tf32 = False  # tokens are compared in full float32
    seen = Conditions(device)
    rates = {}
    for name in dict.fromkeys([*arguments.sizes, *arguments.training]):
        rates[name], copied = limits(SIZES[name]().d_model, device)
        rate, bandwidth = f"{rates[name] / 1e9:.0f} GFLOP/s", f"{copied / 1e9:.1f} GB/s"
        print(f"{name}: products of its width {rate}, copies {bandwidth}", flush=True)
    generate(arguments, rates, device, seen)
    train(arguments, rates, device, seen)
    print(f"\n{seen}")


def generate(
    arguments: argparse.Namespace, rates: dict[str, float], device: torch.device, seen: Conditions
) -> None:
    """Prints each table as soon as it is measured."""
    plan = Plan(rounds=arguments.rounds, n_new=arguments.frames, compiled=arguments.compile)
    cases = [make_case(name, SIZES[name](), device, arguments.clips) for name in arguments.sizes]
    # On a CPU the small model's window takes seconds a step, so it runs with 2 steps only
    asked = [
        (s, n)
        for s in cases
        for n in arguments.steps
        if device.type == "cuda" or s.name == "tiny" or n == 2
    ]
    if not asked:
        return
    rows = [row for s, n in asked for row in against_the_plain_way(s, n, plan, seen)]
    print(table("Generation, tokens only", rows), flush=True)
    rows = [against_the_machine(s, n, rates[s.name], plan) for s, n in asked]
    print(table("Generation and what products allow (G7)", rows), flush=True)
    print(
        table("Generation with pixels", [with_pixels(s, arguments.steps[0], plan) for s in cases]),
        flush=True,
    )
    print(table("Cache", [cache_memory(s) for s in cases]), flush=True)
    if "small" in arguments.sizes:
        rows = [two_branches_against_one(device, arguments.clips, plan, seen)]
        print(table("Two branches against one", rows), flush=True)
    peer = load_peer(device)
    if isinstance(peer, str):
        print(f"\n{peer}: ratios are against our own full recomputation.", flush=True)
    else:
        rows = [
            row
            for n in arguments.steps
            for row in against_the_peer(peer, n, arguments.clips, plan, seen)
        ]
        print(table("Generation with the weights of 1xgpt", rows), flush=True)


def train(
    arguments: argparse.Namespace, rates: dict[str, float], device: torch.device, seen: Conditions
) -> None:
    rounds, on_gpu = arguments.rounds, device.type == "cuda"
    if "small" in arguments.training and not on_gpu:  # first, while this process needs little
        print(table("Memory of training", list(peak_memory("small"))), flush=True)
    rows = [
        row
        for name in arguments.training
        for row in training(
            name, clips_of_a_batch(arguments, name), rates[name], rounds, device, seen
        )
    ]
    if rows:
        print(table("Training step", rows), flush=True)
    if rows and on_gpu:
        print(f"\nThe allocator's peak: {torch.cuda.max_memory_allocated() / 1e9:.1f} GB")


def clips_of_a_batch(arguments: argparse.Namespace, name: str) -> int:
    """Clips in a batch: on a CPU few suffice, and four of `small` unfused need over 20 GB."""
    if arguments.training_clips:
        return arguments.training_clips
    if torch.device(arguments.device).type == "cuda":
        return 16
    return 4 if name == "tiny" else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sizes", nargs="*", choices=SIZES, help="models that generate")
    parser.add_argument(
        "--training",
        nargs="*",
        choices=SIZES,
        help="models that train; on a CPU only tiny by default",
    )
    parser.add_argument(
        "--steps", nargs="*", type=int, default=[2, 4, 8], help="MaskGIT steps for each frame"
    )
    parser.add_argument("--clips", type=int, default=1, help="generated at once")
    parser.add_argument(
        "--training-clips", type=int, help="of a batch; 16 on a GPU, else 4 of tiny, 1 of others"
    )
    parser.add_argument(
        "--frames", type=int, help="of a rollout; 3 on a CPU, 128 on a GPU: all cost the same"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="also with compiled blocks: a minute more for each size",
    )
    found = parser.parse_args()
    on_gpu = torch.device(found.device).type == "cuda"
    sizes, training, frames = ["tiny", "small"], ["tiny"], 3
    if on_gpu:
        sizes, training, frames = ["small", "medium", "large"], ["small", "medium", "large"], 128
    found.sizes = sizes if found.sizes is None else found.sizes
    found.training = training if found.training is None else found.training
    found.frames = found.frames or frames
    return found


if __name__ == "__main__":
    main()
