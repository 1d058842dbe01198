"""SpatialTracker (Xiao et al., CVPR 2024, arXiv:2404.04319): points of a video followed in x, y and
depth.

Frames and their depth go in with query points; positions and visibility in every frame come out.
Start at `predictor.track_points`; the network is in `model`. Published weights are CC-BY-NC 4.0, so
are tracks made with them.
"""
