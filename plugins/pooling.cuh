// What the RoI pooling kernels share: which map a RoI belongs to, which cells a thread pools, how the result is written.
//
// One block pools one RoI (blockIdx.x) for up to CHANNELS_PER_BLOCK channels (blockIdx.y). The constants, the order of
// the arguments and the launch geometry are stated in pooling_kernel.py.
#pragma once
#include "element.cuh"

// EACH_LEVEL(X) writes X(0), X(1), ... X(LEVELS - 1): a TensorRT plugin has one pointer argument per map.
#define EACH_LEVEL_1(X) X(0)
#define EACH_LEVEL_2(X) EACH_LEVEL_1(X), X(1)
#define EACH_LEVEL_3(X) EACH_LEVEL_2(X), X(2)
#define EACH_LEVEL_4(X) EACH_LEVEL_3(X), X(3)
#define EACH_LEVEL_5(X) EACH_LEVEL_4(X), X(4)
#define EACH_LEVEL_6(X) EACH_LEVEL_5(X), X(5)
#define EACH_LEVEL_7(X) EACH_LEVEL_6(X), X(6)
#define EACH_LEVEL_8(X) EACH_LEVEL_7(X), X(7)
#define JOIN_TEXT(a, b) a##b
#define JOIN(a, b) JOIN_TEXT(a, b)
#define EACH_LEVEL JOIN(EACH_LEVEL_, LEVELS)
#define MAP_POINTER(i) const Element* __restrict__ map_##i
#define MAP_HEIGHT(i) int height_##i
#define MAP_WIDTH(i) int width_##i
#define MAP_OF(i) Map{map_##i, height_##i, width_##i}

// A feature map of all pictures, (N, C, height, width) or (N, height, width, C).
struct Map {
    const Element* cells;
    int height, width;
};

constexpr int kBins = OUTPUT_HEIGHT * OUTPUT_WIDTH;
constexpr int kWidth = CHANNELS_LAST ? kPerVector : 1;  // channels a thread pools at once

// The map a RoI is pooled from: the number of thresholds that sqrt(area) reaches. All in float32, in this order,
// as frcnn.plugins.levels explains. False where the RoI is absent.
__device__ __forceinline__ bool find_map(const float4 roi, const Map (&maps)[LEVELS], Map& map, float& scale) {
    constexpr float kScales[] = {SPATIAL_SCALES};
    constexpr float kThresholds[] = {LEVEL_THRESHOLDS};
    const float width = roi.z - roi.x, height = roi.w - roi.y;
    const float area = width * height;
    const float side = sqrtf(area);
    map = maps[0];
    scale = kScales[0];
#pragma unroll
    for (int level = 1; level < LEVELS; ++level) {
        if (side >= kThresholds[level - 1]) {
            map = maps[level];
            scale = kScales[level];
        }
    }
    return width >= 0.f && height >= 0.f && area <= 3.402823466e+38f;
}

// Pools one RoI. `Pooler` is made by every thread of the block from (roi, map, scale), may use shared memory and
// barriers while it is made, and then gives, for a bin, the pooled value of kWidth neighbouring channels:
// pooler(first cell of the channel, elements from a cell to the next in x, bin, values).
template <class Pooler>
__device__ __forceinline__ void pool_roi(const float4* __restrict__ rois, const Map (&maps)[LEVELS],
                                         int rois_per_image, int channels, Element* __restrict__ pooled) {
    constexpr int kRunWords = kBins * kWidth * int(sizeof(Element)) / 4;  // a group's output, in words
    constexpr int kGroups = CHANNELS_PER_BLOCK / kWidth;
    constexpr bool kStaged = CHANNELS_LAST && !OUTPUT_CHANNELS_LAST;

    const int roi_number = blockIdx.x;
    const int first_channel = blockIdx.y * CHANNELS_PER_BLOCK;
    const int groups = min(CHANNELS_PER_BLOCK, channels - first_channel) / kWidth;
    const int image = roi_number / rois_per_image;
    const float4 roi = rois[roi_number];
    Map map;
    float scale;
    const bool present = find_map(roi, maps, map, scale);

    // A word between the runs of two groups spreads the lanes' writes over all banks.
    __shared__ unsigned stage[kStaged ? kGroups * (kRunWords + 1) : 1];

    const Pooler pooler(roi, map, scale, present);
    const size_t cells = size_t(map.height) * map.width;
    for (int item = threadIdx.x; item < groups * kBins; item += THREADS) {
        float values[kWidth] = {};
        if constexpr (CHANNELS_LAST) {  // neighbouring lanes, neighbouring channels
            const int bin = item / groups, group = item - bin * groups;
            const int channel = first_channel + group * kWidth;
            if (present) pooler(map.cells + image * cells * channels + channel, channels, bin, values);
            if constexpr (kStaged) {
                Element* const run = reinterpret_cast<Element*>(stage + group * (kRunWords + 1));
#pragma unroll
                for (int i = 0; i < kWidth; ++i) run[i * kBins + bin] = from_float(values[i]);
            } else {
                store(pooled + (size_t(roi_number) * kBins + bin) * channels + channel, values);
            }
        } else {  // neighbouring lanes, neighbouring bins
            const int channel = first_channel + item / kBins, bin = item % kBins;
            if (present) pooler(map.cells + (size_t(image) * channels + channel) * cells, 1, bin, values);
            store(pooled + (size_t(roi_number) * channels + channel) * kBins + bin, values);
        }
    }
    if constexpr (kStaged) {
        __syncthreads();
        unsigned* const out = reinterpret_cast<unsigned*>(pooled + (size_t(roi_number) * channels + first_channel) * kBins);
        for (int word = threadIdx.x; word < groups * kRunWords; word += THREADS) out[word] = stage[word + word / kRunWords];
    }
}
