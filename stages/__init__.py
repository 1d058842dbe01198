"""What is made, from what, and how: pure functions on arrays, wrapped as stages that `pipeline`
runs.
"""
