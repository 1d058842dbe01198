"""How fast a training runs, and its MFU: the share of the machine's measured matmul rate."""

import resource
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from model.training.peak_flops import Peak
from stages.drawing.markdown import markdown_table

THROUGHPUT_FILE = "throughput.md"
# Share of the first steps that a report leaves out: they compile and allocate
WARM_UP = 0.1


@dataclass(frozen=True, kw_only=True)
class Meter:
    """The work of one step, of all workers together."""

    clips_per_step: int
    tokens_per_clip: int  # of all branches
    flops_per_clip: float  # forward and backward, without recomputation and padding
    n_workers: int
    peak: Peak  # of one worker

    def rates(self, seconds: float) -> dict[str, float]:
        """Clips and tokens per second, and MFU, of a step that took `seconds`."""
        clips = self.clips_per_step / seconds
        mfu = clips * self.flops_per_clip / (self.n_workers * self.peak.flops)
        return {"clips/s": clips, "tokens/s": clips * self.tokens_per_clip, "MFU": mfu}

    def report(self, seconds: Sequence[float]) -> str:
        """Markdown about the median step after the warm-up."""
        kept = np.asarray(seconds)[int(WARM_UP * len(seconds)) :]
        step = float(np.median(kept))
        rates = self.rates(step)
        if torch.cuda.is_available():
            memory, where = torch.cuda.max_memory_allocated(), " of the GPU"
        else:
            memory, where = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, ""
        workers = f"{self.n_workers} worker{'s' if self.n_workers > 1 else ''}"
        operations = f"{self.flops_per_clip / 1e9:.4g} GFLOP a clip, forward and backward"
        rows = [
            ("step", f"{1000 * step:.4g} ms"),
            ("clips a second", f"{rates['clips/s']:.4g}"),
            ("tokens a second", f"{rates['tokens/s']:.4g}"),
            ("operations", operations),
            ("MFU", f"{rates['MFU']:.1%} of {workers} x {self.peak.flops / 1e9:.4g} GFLOP/s"),
            ("measured rate", f"{self.peak.what}, in this run"),
        ]
        if sheet := self.peak.data_sheet:
            share = rates["MFU"] * self.peak.flops / sheet
            rows.append((f"MFU of the data sheet's {sheet / 1e12:.0f} TFLOP/s", f"{share:.1%}"))
        rows.append(("peak memory of the first worker", f"{memory / 1e9:.3g} GB{where}"))
        return (
            f"# Throughput\n\nMedian of {len(kept)} steps, {workers}, {self.clips_per_step} clips "
            "a step; with making batches, without saving and measuring.\n\n"
            f"{markdown_table(('', ''), rows)}\n"
        )
