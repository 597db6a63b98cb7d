"""``frcnn bench``: rows timed against eager torchvision, in one run, on the user's own machine and pictures."""
