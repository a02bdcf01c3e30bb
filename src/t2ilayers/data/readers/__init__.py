"""Readers of captioned pictures: folders, tar files, and the layouts in which CUB and COCO are published."""
