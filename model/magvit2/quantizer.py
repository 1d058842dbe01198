"""Lookup-free quantisation (Yu et al. 2023, section 3.1): a token is the signs of its channels.

Channel 0 is the least significant bit of the id, as in published data sets of tokens. (1X's own
quantiser writes the reverse order and flips it when it decodes.)
"""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

FACTOR_SIZE = 512  # the world model predicts an 18-bit id as two independent choices out of 512


def signs(z: Float[Tensor, "b d gh gw"]) -> Float[Tensor, "b d gh gw"]:
    """+1 where z > 0, else -1 (also at 0)."""
    return torch.where(z > 0, 1.0, -1.0).to(z.dtype)


def straight_through(z: Float[Tensor, "b d gh gw"]) -> Float[Tensor, "b d gh gw"]:
    """The signs of z, with the gradient of z."""
    return z + (signs(z) - z).detach()


def ids_from_signs(z: Float[Tensor, "b d gh gw"]) -> Int[Tensor, "b gh gw"]:
    """Ids (int32 in [0, 2**d)): bit c is set where z_c > 0. z is codes or the encoder's output."""
    bits = (z > 0).to(torch.int32)
    place = 2 ** torch.arange(z.shape[1], dtype=torch.int32, device=z.device)
    return (bits * rearrange(place, "d -> d 1 1")).sum(dim=1, dtype=torch.int32)


def signs_from_ids(ids: Int[Tensor, "b gh gw"], n_bits: int) -> Float[Tensor, "b d gh gw"]:
    """The codes (float32, -1 or +1) of ids in [0, 2**n_bits); the inverse of `ids_from_signs`."""
    shifts = torch.arange(n_bits, dtype=ids.dtype, device=ids.device)
    bits = (rearrange(ids, "b gh gw -> b 1 gh gw") >> rearrange(shifts, "d -> d 1 1")) & 1
    return bits.to(torch.float32) * 2 - 1


def split_ids(ids: Int[Tensor, "*i"]) -> Int[Tensor, "*i 2"]:
    """The two factors in [0, 512) of 18-bit ids: id % 512 (bits 0-8) and id // 512 (bits 9-17)."""
    return torch.stack((ids % FACTOR_SIZE, ids // FACTOR_SIZE), dim=-1)
