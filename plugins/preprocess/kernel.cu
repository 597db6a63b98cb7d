// Resize, normalise and pad a batch of images of different sizes. One thread makes COLUMNS_PER_THREAD pixels of a row,
// 32 columns apart; blockIdx.z is the image. PyTorch's bilinear rule (align_corners=False), float32.
#include "preprocess/image.cuh"

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
preprocess(const Image* __restrict__ sources, int canvas_height, int canvas_width, Element* __restrict__ images) {
    const Image image = sources[blockIdx.z];
    const int row = blockIdx.y * blockDim.y + threadIdx.y;
    if (row >= canvas_height) return;
    const int resized_height = int(image.resized_height), resized_width = int(image.resized_width);
    const bool row_is_image = row < resized_height;
    const Neighbours y = neighbours(min(row, resized_height - 1), int(image.height), resized_height);
    const unsigned char* const pixels = reinterpret_cast<const unsigned char*>(image.pixels);
    const unsigned char* const low_row = pixels + y.low * image.row_stride;
    const unsigned char* const high_row = pixels + y.high * image.row_stride;
    const size_t plane = size_t(canvas_height) * canvas_width;
    Element* const out = images + 3 * blockIdx.z * plane + size_t(row) * canvas_width;

#pragma unroll
    for (int i = 0; i < COLUMNS_PER_THREAD; ++i) {
        const int column = (blockIdx.x * COLUMNS_PER_THREAD + i) * 32 + threadIdx.x;
        if (column >= canvas_width) return;
        float values[3] = {0.f, 0.f, 0.f};
        if (row_is_image && column < resized_width) {
            const Neighbours x = neighbours(column, int(image.width), resized_width);
            const long long low = x.low * image.column_stride, high = x.high * image.column_stride;
#pragma unroll
            for (int channel = 0; channel < 3; ++channel) {
                const long long offset = channel * image.channel_stride;
                const float a = low_row[low + offset], b = low_row[high + offset];
                const float c = high_row[low + offset], d = high_row[high + offset];
                const float upper = a + x.weight * (b - a), lower = c + x.weight * (d - c);
                values[channel] = normalised(upper + y.weight * (lower - upper), channel);
            }
        }
#pragma unroll
        for (int channel = 0; channel < 3; ++channel) out[channel * plane + column] = from_float(values[channel]);
    }
}
