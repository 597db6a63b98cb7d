"""Speed, parity and accuracy against eager torchvision."""
