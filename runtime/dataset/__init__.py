"""An annotated data set: its images and objects, which file is which image, and which class is which category.

In: COCO's or VOC's annotations, files, a model's classes; COCO results.
Out: checked records, pairs, and errors of one line.
"""
