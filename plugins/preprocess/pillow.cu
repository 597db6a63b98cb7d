// As kernel.cu, by the rule of Pillow's BILINEAR of 8-bit pixels, with which Detectron2 resizes: a triangle that is as wide
// as a resized pixel, or as a source pixel if that is wider; rows first, to 8 bits, then columns. To the bit the same: the
// weights are found in double precision and rounded to 22 bits. A block keeps those of its rows and columns, unless the
// image shrinks so much that they are too many, which are then computed for each pixel.
#include "preprocess/image.cuh"

constexpr int kRows = 8, kColumns = 32 * COLUMNS_PER_THREAD;
constexpr int kMostKept = 21;  // odd, so that lanes read from different banks; shrinking to a tenth
constexpr int kBits = 22, kHalf = 1 << (kBits - 1);

struct Taps {
    int first, count;
    double centre, sharpness, sum;

    __device__ __forceinline__ double height(int tap) const {
        const double distance = fabs((tap + first - centre + 0.5) * sharpness);
        return distance < 1.0 ? 1.0 - distance : 0.0;
    }
    __device__ __forceinline__ int weight(int tap) const { return int(0.5 + height(tap) / sum * (1 << kBits)); }
};

__device__ __forceinline__ Taps taps_of(int at, int size, int resized) {
    const double scale = double(size) / double(resized), support = scale > 1.0 ? scale : 1.0;
    Taps taps;
    taps.centre = (at + 0.5) * scale;
    taps.sharpness = 1.0 / support;
    taps.first = max(int(taps.centre - support + 0.5), 0);
    taps.count = min(int(taps.centre + support + 0.5), size) - taps.first;
    taps.sum = 0.0;
    for (int tap = 0; tap < taps.count; ++tap) taps.sum += taps.height(tap);
    return taps;
}

extern "C" __global__ void __launch_bounds__(256)
preprocess(const Image* __restrict__ sources, int canvas_height, int canvas_width, Element* __restrict__ images) {
    __shared__ Taps rows[kRows], columns[kColumns];
    __shared__ int row_weights[kRows][kMostKept], column_weights[kColumns][kMostKept];
    const Image image = sources[blockIdx.z];
    const int resized_height = int(image.resized_height), resized_width = int(image.resized_width);
    const int first_row = blockIdx.y * kRows, first_column = blockIdx.x * kColumns;
    const int thread = threadIdx.y * 32 + threadIdx.x;
    if (first_row < resized_height && first_column < resized_width) {
        for (int i = thread; i < kColumns + kRows; i += 32 * kRows) {
            const bool is_column = i < kColumns;
            const int at = is_column ? first_column + i : first_row + i - kColumns;
            if (at >= (is_column ? resized_width : resized_height)) continue;
            Taps& taps = is_column ? columns[i] : rows[i - kColumns];
            int* const weights = is_column ? column_weights[i] : row_weights[i - kColumns];
            taps = is_column ? taps_of(at, int(image.width), resized_width)
                             : taps_of(at, int(image.height), resized_height);
            for (int tap = 0; tap < min(taps.count, kMostKept); ++tap) weights[tap] = taps.weight(tap);
        }
    }
    __syncthreads();

    const int row = first_row + threadIdx.y;
    if (row >= canvas_height) return;
    const bool row_is_image = row < resized_height;
    const unsigned char* const pixels = reinterpret_cast<const unsigned char*>(image.pixels);
    const size_t plane = size_t(canvas_height) * canvas_width;
    Element* const out = images + 3 * blockIdx.z * plane + size_t(row) * canvas_width;
    for (int i = threadIdx.x; i < kColumns; i += 32) {
        const int column = first_column + i;
        if (column >= canvas_width) return;
        float values[3] = {0.f, 0.f, 0.f};
        if (row_is_image && column < resized_width) {
            const Taps& y = rows[threadIdx.y];
            const Taps& x = columns[i];
            int sums[3] = {kHalf, kHalf, kHalf};
            for (int down = 0; down < y.count; ++down) {
                const unsigned char* at = pixels + (y.first + down) * image.row_stride + x.first * image.column_stride;
                int parts[3] = {kHalf, kHalf, kHalf};
                for (int across = 0; across < x.count; ++across, at += image.column_stride) {
                    const int weight = across < kMostKept ? column_weights[i][across] : x.weight(across);
#pragma unroll
                    for (int channel = 0; channel < 3; ++channel) {
                        parts[channel] += at[channel * image.channel_stride] * weight;
                    }
                }
                const int weight = down < kMostKept ? row_weights[threadIdx.y][down] : y.weight(down);
#pragma unroll
                for (int channel = 0; channel < 3; ++channel) sums[channel] += min(parts[channel] >> kBits, 255) * weight;
            }
#pragma unroll
            for (int channel = 0; channel < 3; ++channel) {
                values[channel] = normalised(float(min(sums[channel] >> kBits, 255)), channel);
            }
        }
#pragma unroll
        for (int channel = 0; channel < 3; ++channel) out[channel * plane + column] = from_float(values[channel]);
    }
}
