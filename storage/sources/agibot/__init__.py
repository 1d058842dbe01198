"""AGIBOT-World (Alpha and Beta) on disk, extracted or in the hub's tars: files and sensors."""
