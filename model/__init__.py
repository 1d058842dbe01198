"""Networks and mathematics: tensors in, tensors out. Needs torch, numpy, einops, safetensors."""
