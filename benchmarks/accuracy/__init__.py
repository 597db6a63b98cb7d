"""COCO's box measure of a model and of eager torchvision, on annotated pictures."""
