// Resize, normalise and pad a batch of pictures of different sizes. One thread makes COLUMNS_PER_THREAD pixels of a row,
// 32 columns apart; blockIdx.z is the picture. PyTorch's bilinear rule (align_corners=False), float32.
#include "cuda/element.cuh"

// A row of the table; see PICTURE_COLUMNS in kernel.py.
struct Picture {
    long long pixels, height, width, row_stride, column_stride, channel_stride, resized_height, resized_width;
};

// The two neighbours of a resized pixel on one axis, and the weight of the second.
struct Neighbours {
    int low, high;
    float weight;
};

__device__ __forceinline__ Neighbours neighbours(int at, int size, int resized) {
    const float step = float(size) / float(resized);
    const float source = fmaxf(step * (float(at) + 0.5f) - 0.5f, 0.f);
    const int low = min(int(source), size - 1);
    return Neighbours{low, min(low + 1, size - 1), source - float(low)};
}

extern "C" __global__ void __launch_bounds__(256)
preprocess(const Picture* __restrict__ pictures, int canvas_height, int canvas_width, Element* __restrict__ images) {
    constexpr float kScales[] = {CHANNEL_SCALES};
    constexpr float kShifts[] = {CHANNEL_SHIFTS};
    const Picture picture = pictures[blockIdx.z];
    const int row = blockIdx.y * blockDim.y + threadIdx.y;
    if (row >= canvas_height) return;
    const int resized_height = int(picture.resized_height), resized_width = int(picture.resized_width);
    const bool row_is_picture = row < resized_height;
    const Neighbours y = neighbours(min(row, resized_height - 1), int(picture.height), resized_height);
    const unsigned char* const pixels = reinterpret_cast<const unsigned char*>(picture.pixels);
    const unsigned char* const low_row = pixels + y.low * picture.row_stride;
    const unsigned char* const high_row = pixels + y.high * picture.row_stride;
    const size_t plane = size_t(canvas_height) * canvas_width;
    Element* const out = images + 3 * blockIdx.z * plane + size_t(row) * canvas_width;

#pragma unroll
    for (int i = 0; i < COLUMNS_PER_THREAD; ++i) {
        const int column = (blockIdx.x * COLUMNS_PER_THREAD + i) * 32 + threadIdx.x;
        if (column >= canvas_width) return;
        float values[3] = {0.f, 0.f, 0.f};
        if (row_is_picture && column < resized_width) {
            const Neighbours x = neighbours(column, int(picture.width), resized_width);
            const long long low = x.low * picture.column_stride, high = x.high * picture.column_stride;
#pragma unroll
            for (int channel = 0; channel < 3; ++channel) {
                const long long offset = channel * picture.channel_stride;
                const float a = low_row[low + offset], b = low_row[high + offset];
                const float c = high_row[low + offset], d = high_row[high + offset];
                const float upper = a + x.weight * (b - a), lower = c + x.weight * (d - c);
                values[channel] = fmaf(upper + y.weight * (lower - upper), kScales[channel], kShifts[channel]);
            }
        }
#pragma unroll
        for (int channel = 0; channel < 3; ++channel) out[channel * plane + column] = from_float(values[channel]);
    }
}
