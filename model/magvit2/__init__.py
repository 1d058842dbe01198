"""MAGVIT-2 as a frame tokenizer (Yu et al. 2023, arXiv:2310.05737; layouts of 1X and TencentARC).

Images in [-1, 1] to one 18-bit id per grid cell, and back.
"""
