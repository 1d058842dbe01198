"""Video Depth Anything (Chen et al. 2025, arXiv:2501.12375): a clip's frames to consistent depth,
written here.

An image encoder (DINOv2) that sees frames one by one, and a dense head with temporal attention at
four places.
"""
