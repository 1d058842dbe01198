"""Stored tokens to images, and the checks that they are tokens of this tokenizer."""

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
from stages.tokenizer.images import Source
from stages.tokenizer.measure import TOKENIZER_FILE
from storage.stores.results import Result
from storage.stores.rows import Rows


def load_tokenizer(result: Result, source: Source) -> MagvitTokenizer:
    """The network of a `train_tokenizer` result, on the CPU; raises ValueError if it is for the
    other kind of image.
    """
    path = result.file(TOKENIZER_FILE)
    trained_on = read_header(path)["card"]["source"]
    if trained_on != source:
        raise ValueError(
            f"{result.ref} is a tokenizer of {trained_on} images, {source} was asked for"
        )
    network = load_model(path, MagvitTokenizer, MagvitConfig)[0].requires_grad_(False)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  (a keyword torch's stubs lack)


def decode_clips(
    tokenizer: MagvitTokenizer, ids: Int[Tensor, "b t gh gw"], precision: Precision = "float32"
) -> Float[Tensor, "b t c h w"]:
    """Images in [-1, 1], on the CPU, of clips of tokens; one clip at a time, so that memory stays
    flat.
    """
    return torch.stack([decode_frames(tokenizer, clip, precision=precision).cpu() for clip in ids])


def read_ids(
    tokens: Rows, name: str, chosen: Int[np.ndarray, " b"]
) -> Integer[np.ndarray, "b t gh gw"]:
    """The stored tokens of these rows; raises ValueError, naming the clip, where one is none of the
    world model's.
    """
    ids = tokens.gather(name, chosen)
    check_ids(torch.from_numpy(ids), TOKEN_VOCAB, [tokens.clip_ids[int(row)] for row in chosen])
    return ids


def check_ids(ids: Int[Tensor, "b *any"], vocabulary: int, clip_ids: Sequence[str]) -> None:
    """Raises ValueError, naming the first clip, where a token is not in [0, vocabulary): embeddings
    would not say.
    """
    for clip, clip_id in zip(ids, clip_ids, strict=True):
        low, high = int(clip.min()), int(clip.max())
        if low < 0 or high >= vocabulary:
            raise ValueError(
                f"clip {clip_id}: tokens from {low} to {high}, expected 0 to {vocabulary - 1}: the store is damaged, "
                "or of another tokenizer; `roboscape inspect --verify` checks it, its stage makes it anew"
            )
