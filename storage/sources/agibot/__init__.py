"""AGIBOT-World (Alpha and Beta) on disk, extracted or in the hub's tars: what is there, and its
sensors as arrays.
"""
