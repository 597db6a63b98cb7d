"""Networks on arrays in host memory, run by ONNX Runtime or OpenVINO.

In: ``model.onnx``, a provider, and batches of images.
Out: padded detections of each batch.
"""
