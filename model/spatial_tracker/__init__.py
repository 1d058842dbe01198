"""SpatialTracker (Xiao et al., CVPR 2024, arXiv:2404.04319): tracks of points in x, y and depth.

Frames, their depth and query points in; positions and visibility in every frame out. Start at
`predictor.track_points`; the network is in `model`. Published weights are CC-BY-NC 4.0, and so are
tracks made with them.
"""
