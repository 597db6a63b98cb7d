// Box arithmetic, sorting and overlaps of candidates.
#pragma once
#include "boxes/decode.cuh"
#include "boxes/keys.cuh"
#include "boxes/overlap.cuh"
#include "cuda/element.cuh"
