// As kernel.cu, by the rule of OpenCV's INTER_LINEAR of 8-bit pixels, with which MMDetection resizes: weights of 11 bits,
// and an image of twice the size in both directions is averaged. To the bit the same.
#include "preprocess/image.cuh"

struct Neighbours {
    int low, high;
    int low_weight, high_weight;  // of 2048
};

// Of columns beyond the first or last one, OpenCV takes the edge alone; of rows it takes the edge twice, with both weights.
__device__ __forceinline__ Neighbours neighbours(int at, int size, int resized, bool weighs_edges) {
    const double step = 1.0 / (double(resized) / double(size));
    const float source = float((at + 0.5) * step - 0.5);
    const int low = int(floorf(source));
    const float weight = weighs_edges || (low >= 0 && low < size - 1) ? source - float(low) : 0.f;
    return Neighbours{
        max(min(low, size - 1), 0), min(low + 1, size - 1), int(rintf((1.f - weight) * 2048.f)),
        int(rintf(weight * 2048.f))
    };
}

extern "C" __global__ void __launch_bounds__(256)
preprocess(const Image* __restrict__ sources, int canvas_height, int canvas_width, Element* __restrict__ images) {
    const Image image = sources[blockIdx.z];
    const int row = blockIdx.y * blockDim.y + threadIdx.y;
    if (row >= canvas_height) return;
    const int height = int(image.height), width = int(image.width);
    const int resized_height = int(image.resized_height), resized_width = int(image.resized_width);
    const bool row_is_image = row < resized_height;
    const bool is_halved = height == 2 * resized_height && width == 2 * resized_width;
    Neighbours y = neighbours(min(row, resized_height - 1), height, resized_height, true);
    if (is_halved) y.low = 2 * min(row, resized_height - 1), y.high = y.low + 1;
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
            Neighbours x = neighbours(column, width, resized_width, false);
            if (is_halved) x.low = 2 * column, x.high = x.low + 1;
            const long long low = x.low * image.column_stride, high = x.high * image.column_stride;
#pragma unroll
            for (int channel = 0; channel < 3; ++channel) {
                const long long offset = channel * image.channel_stride;
                const int a = low_row[low + offset], b = low_row[high + offset];
                const int c = high_row[low + offset], d = high_row[high + offset];
                const int upper = (a * x.low_weight + b * x.high_weight) >> 4;
                const int lower = (c * x.low_weight + d * x.high_weight) >> 4;
                const int sum = (upper * y.low_weight >> 16) + (lower * y.high_weight >> 16);
                const int linear = is_halved ? (a + b + c + d + 2) >> 2 : (sum + 2) >> 2;
                values[channel] = normalised(float(linear), channel);
            }
        }
#pragma unroll
        for (int channel = 0; channel < 3; ++channel) out[channel * plane + column] = from_float(values[channel]);
    }
}
