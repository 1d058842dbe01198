"""Video Depth Anything (Chen et al. 2025, arXiv:2501.12375): a clip's frames to consistent depth.

An image encoder (DINOv2) that sees each frame alone, and a dense head with temporal attention at
four places.
"""
