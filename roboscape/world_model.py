"""A trained world model, ready to predict: networks, tokenizers and action statistics in one."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from model.training.device import pick_device
from model.world.cache import FrameTokens
from model.world.config import SamplingConfig
from roboscape.clip import Clip
from roboscape.clips import Clips
from roboscape.errors import RejectedClip
from roboscape.joined import ROLES, JoinedStores
from roboscape.video import DepthRange, Video
from stages.evaluation.checkpoint import Checkpoint, require_usable
from stages.evaluation.predict import read_tokens
from stages.evaluation.video_generation import encode_clip, generate_video, plan_course
from storage.sources.action_file import as_actions
from storage.stores import store
from storage.stores.records import StoreRef
from storage.stores.rows import ClipRows, Rows, open_rows


class WorldModel:
    """From `Workspace.world_model`. Its networks are loaded, and in evaluation mode."""

    def __init__(self, checkpoint: Checkpoint, *, device: str | None = None):
        self._checkpoint = checkpoint
        self._rows = checkpoint.rows()
        self._networks = checkpoint.networks(self._rows, pick_device(device))

    @property
    def path(self) -> Path:
        """The checkpoint."""
        return self._checkpoint.path

    @property
    def card(self) -> dict[str, Any]:
        """What the checkpoint says of itself: data, tokenizers, training, numbers, start."""
        return dict(self._checkpoint.card)

    @property
    def device(self) -> str:
        """Where its networks are: `cpu` or `cuda:0`."""
        return str(self._networks.device)

    @property
    def action_dim(self) -> int:
        """Numbers to an action; the clips' store says what they are."""
        return self._networks.world.config.action_dim

    @property
    def has_depth(self) -> bool:
        """Whether it predicts depth, too."""
        return self._networks.has_depth

    @cached_property
    def clips(self) -> Clips:
        """The clips of its training, held-out ones among them, with the labels that it saw."""
        clip, root = self._rows["clip"], self._checkpoint.root
        assert isinstance(clip, ClipRows), clip
        names = {role: name.split("/") for role, name in self.card["data"].items() if role in ROLES}
        refs = {role: StoreRef.at(root, *name) for role, name in names.items()}
        refs |= {} if self._depth is None else {"depth": self._depth.ref}
        there = {role: ref for role, ref in refs.items() if store.is_complete(ref)}
        return Clips(JoinedStores(clip, there))

    def rollout(
        self,
        clip: Clip | int | np.integer | str,
        actions: ArrayLike | None = None,
        n_frames: int | None = None,
        *,
        seed: int = 0,
        steps: int = 2,
        temperature: int | float = 0.0,
        top_k: int | None = None,
        order: Literal["random", "confidence"] = "random",
    ) -> Video:
        """A predicted video, from the clip's first frame and actions.

        clip: a `Clip`, or the row or id of one of `clips`. A clip of another store is encoded with
        the model's tokenizers; it must have the same frame size and, for a model with depth, depth.
        actions: (frames, a) or (frames, i, a) in the data set's units, in place of the clip's own;
        row t leads into frame t, row 0 belongs to the given frame. Of i actions a frame the model
        reads as many as in training, evenly apart and the last among them; one stands for all.
        n_frames: in all, frame 0 included; one for each row of actions by default. Past the last
        row its last pose is held; past the model's window each frame sees the ones before it.
        seed: of the noise; the same everywhere on a CPU.
        steps: MaskGIT steps for each frame.
        temperature: 0 takes the likeliest token, 1 draws from the model's own distribution.
        top_k: draw among the k likeliest values of each factor of a token.
        order: which cells each step keeps, `random` ones or by `confidence`.
        Raises RejectedClip for a clip that was rejected, ValueError for one that does not fit, for
        actions of another shape or not finite, and for fewer than 2 frames.
        """
        if not isinstance(clip, Clip):
            clip = self.clips[clip]
        sampling = SamplingConfig(
            n_steps=steps, temperature=float(temperature), top_k=top_k, order=order
        )
        true, depth = self._encoded(clip)
        given = None
        if actions is not None:
            given = as_actions(np.asarray(actions, np.float32), self.action_dim, "actions")
        own = as_actions(clip.actions, self.action_dim, f"clip {clip.clip_id}")
        n_substeps = self._networks.world.config.action_substeps
        course = plan_course(own, given, n_frames, n_substeps)
        made = generate_video(self._networks, clip.clip_id, true, course, sampling, seed, _unheard)
        drawn = f"temperature {temperature:g}" + (f" of the {top_k} likeliest" if top_k else "")
        how = f"{steps} MaskGIT steps, {drawn}, {order} order, seed {seed}"
        return Video(made, rate_hz=clip.rate_hz, depth=depth, how=how)

    def _encoded(self, clip: Clip) -> tuple[FrameTokens, DepthRange | None]:
        """The clip's tokens, and the range of its depths where it is known."""
        if str(clip._stores.clip.ref) != str(self._rows["clip"].ref):
            arrays = {"rgb": np.array(clip.rgb)}
            if not self.has_depth:
                return encode_clip(self._networks, arrays), None
            names = ("inverse_depth", "inverse_depth_range")
            arrays |= {name: np.array(clip[f"depth/{name}"]) for name in names}
            depth = DepthRange(str(clip._stores.ref("depth")), arrays["inverse_depth_range"])
            return encode_clip(self._networks, arrays), depth
        try:
            require_usable(self._rows, clip.row)
        except ValueError as error:
            raise RejectedClip(str(error)) from None
        true = read_tokens(self._rows, np.array([clip.row]), self._networks)
        if self._depth is None or not self.has_depth:
            return true, None
        limits = self._depth.read(["inverse_depth_range"], clip.row)["inverse_depth_range"]
        return true, DepthRange(str(self._depth.ref), limits)

    @cached_property
    def _depth(self) -> Rows | None:
        """The store that the model's depth tokens were made from, if it is there."""
        tokens = self._rows["depth_tokens"]
        assert isinstance(tokens, ClipRows), tokens
        name = tokens.manifest.inputs.get("depth")
        ref = None if name is None else StoreRef.under(self._checkpoint.root, name)
        return open_rows(ref) if ref is not None and store.is_complete(ref) else None

    def __repr__(self) -> str:
        config, card = self._networks.world.config, self.card
        n = sum(weight.numel() for weight in self._networks.world.parameters())
        gh, gw = config.grid
        steps = card.get("training", {}).get("steps")
        trained = [f"trained {steps} steps"] if steps else []
        return (
            f"<WorldModel {self.path}: "
            + ", ".join(
                [
                    f"{n / 1e6:.1f} M parameters",
                    f"{gh} x {gw} tokens a frame",
                    f"window of {config.n_frames} frames",
                    "depth branch" if self.has_depth else "no depth branch",
                    f"on {self.device}",
                    *trained,
                    f"data {card['data']['clip']}",
                ]
            )
            + ">"
        )


def _unheard(done: int, total: int, note: str = "") -> None:
    """Progress that nobody watches."""
