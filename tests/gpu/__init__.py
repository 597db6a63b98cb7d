"""What only a GPU can show. Needs no package but pytest, NumPy, torch, torchvision and those of ``frcnn[cuda]``.

Run by ``make test-gpu``, or anywhere with ``FRCNN_REQUIRE_GPU=1 PYTHONPATH=src:tests pytest --confcutdir=tests/gpu
tests/gpu``: the variable turns every skip into a failure.
"""
