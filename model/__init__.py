"""Networks and mathematics: tensors in, tensors out. Imports torch, numpy, einops and little else."""
