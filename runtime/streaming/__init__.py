"""Many images through a detector, in order.

In: an iterator of images, which is read ahead.
Out: detections in the same order; batches of one canvas in between.
"""
