"""MAGVIT-2 as a frame tokenizer (Yu et al. 2023, arXiv:2310.05737; open layouts by 1X and
TencentARC).

Images in [-1, 1] go in; one 18-bit id per grid cell comes out, and back.
"""
