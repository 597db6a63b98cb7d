"""Images of every kind become a batch on one canvas.

In: files, bytes, PIL images, arrays, tensors, folders and videos.
Out: RGB images, resized and normalized as torchvision does, and the canvas each fits on.
"""
