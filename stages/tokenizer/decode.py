"""Stored tokens -> images, with checks that the tokens are this tokenizer's."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from model.magvit2.autoencoder import MagvitTokenizer
from model.magvit2.batched import Precision, decode_frames
from model.magvit2.config import MagvitConfig
from model.training.checkpoint import load_model, read_header
from model.world.config import TOKEN_VOCAB
from stages.batches import clip_ids_at
from stages.tokenizer.images import Source
from stages.tokenizer.measure import TOKENIZER_FILE
from storage.stores.results import Result
from storage.stores.rows import Rows


def load_tokenizer(result: Result, source: Source) -> MagvitTokenizer:
    """The network of a tokenizer's result, on the CPU.

    Raises ValueError if it was trained on the other kind of image.
    """
    path = result.file(TOKENIZER_FILE)
    trained_on = read_header(path)["card"]["source"]
    if trained_on != source:
        raise ValueError(
            f"{result.ref} is a tokenizer of {trained_on} images, expected one of {source} images"
        )
    network = load_model(path, MagvitTokenizer, MagvitConfig)[0].requires_grad_(False)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  (a keyword torch's stubs lack)


def decode_clips(
    tokenizer: MagvitTokenizer, ids: Int[Tensor, "b t gh gw"], precision: Precision = "float32"
) -> Float[Tensor, "b t c h w"]:
    """Images in [-1, 1], on the CPU; decoded one clip at a time to bound memory."""
    return torch.stack([decode_frames(tokenizer, clip, precision=precision).cpu() for clip in ids])


def read_ids(
    tokens: Rows, name: str, chosen: Int[np.ndarray, " b"]
) -> Integer[np.ndarray, "b t gh gw"]:
    """The stored tokens of these rows.

    Raises ValueError, naming the clip, for a token outside the world model's vocabulary.
    """
    ids = tokens.gather(name, chosen)
    check_ids(torch.from_numpy(ids), TOKEN_VOCAB, clip_ids_at(tokens, chosen))
    return ids


def check_ids(ids: Int[Tensor, "b *any"], vocabulary: int, clip_ids: Sequence[str]) -> None:
    """Raises ValueError, naming the first clip with a token outside [0, vocabulary)."""
    for clip, clip_id in zip(ids, clip_ids, strict=True):
        low, high = int(clip.min()), int(clip.max())
        if low < 0 or high >= vocabulary:
            raise ValueError(
                f"clip {clip_id}: tokens from {low} to {high}, expected 0 to {vocabulary - 1}: "
                "the store is damaged, or of another tokenizer; `roboscape inspect --verify` "
                "checks it, its stage makes it again"
            )
