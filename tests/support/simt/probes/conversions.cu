// Elements to float32 and back.
#include "cuda/element.cuh"

extern "C" __global__ void conversions(const Element* __restrict__ narrow, const float* __restrict__ wide, int count,
                                       float* __restrict__ widened, Element* __restrict__ narrowed) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    widened[i] = to_float(narrow[i]);
    narrowed[i] = from_float(wide[i]);
}
