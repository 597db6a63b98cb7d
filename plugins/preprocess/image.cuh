// What the preprocessing kernels have in common: the table of the images, and what follows after resizing.
#pragma once
#include "cuda/element.cuh"

// A row of the table; see IMAGE_COLUMNS in preprocess/kernel.py.
struct Image {
    long long pixels, height, width, row_stride, column_stride, channel_stride, resized_height, resized_width;
};

// Normalises a resized value of 0 to 255.
__device__ __forceinline__ float normalised(float value, int channel) {
    constexpr float kScales[] = {CHANNEL_SCALES};
    constexpr float kShifts[] = {CHANNEL_SHIFTS};
    return fmaf(value, kScales[channel], kShifts[channel]);
}
