"""What only a GPU can show. Needs no package but pytest, NumPy, torch, torchvision and those of ``frcnn[cuda]``.

Run by ``make test-gpu`` and ``maintenance/gpu_session.py``, or anywhere with ``FRCNN_REQUIRE_GPU=1 pytest
-c tests/gpu/pytest.ini --rootdir=. tests/gpu``. The variable makes a system without a GPU a failure; what is skipped
then has a reason of its own: a library that is not installed, or no TensorRT that serves the GPU.
"""
