// The common part of the RoI pooling kernels: the map of a RoI, the work of a thread, the output.
//
// One block pools one RoI (blockIdx.x) for up to CHANNELS_PER_BLOCK channels (blockIdx.y). The constants, the order of
// the arguments and the launch geometry are stated in roi_pooling/kernel.py.
#pragma once
#include "cuda/each_level.cuh"
#include "cuda/element.cuh"

#define MAP_POINTER(i) const Element* __restrict__ map_##i
#define MAP_HEIGHT(i) int height_##i
#define MAP_WIDTH(i) int width_##i
#define MAP_OF(i) Map{map_##i, height_##i, width_##i}

// A feature map of all images, (N, C, height, width) or (N, height, width, C).
struct Map {
    const Element* cells;
    int height, width;
};

constexpr int kBins = OUTPUT_HEIGHT * OUTPUT_WIDTH;
constexpr int kWidth = CHANNELS_LAST ? kPerVector : 1;  // channels a thread pools at once

// kWidth neighbouring channels of a cell as they lie in memory.
#if CHANNELS_LAST
using Vector = uint4;
#else
using Vector = Element;
#endif

__device__ __forceinline__ void widen(const Vector& vector, float (&values)[kWidth]) {
    load(reinterpret_cast<const Element*>(&vector), values);
}

// The RoI of this block, and the map it is pooled from.
struct Roi {
    float4 box;  // x1, y1, x2, y2 in canvas pixels
    Map map;
    float scale;
    int image;
    bool present;
};

// The level is the number of thresholds that sqrt(area) reaches. All in float32 and in this order, see
// roi_pooling/level_boundaries.py.
__device__ __forceinline__ Roi find_roi(const float4* __restrict__ rois, const Map (&maps)[LEVELS], int rois_per_image) {
    constexpr float kScales[] = {SPATIAL_SCALES};
    constexpr float kThresholds[] = {LEVEL_THRESHOLDS};
    const float4 box = rois[blockIdx.x];
    const float width = box.z - box.x, height = box.w - box.y;
    const float area = width * height;
    const float side = sqrtf(area);
    const bool present = width >= 0.f && height >= 0.f && area <= 3.402823466e+38f && !(LEVELS == 1 && side >= kThresholds[0]);
    Roi roi{box, maps[0], kScales[0], int(blockIdx.x) / rois_per_image, present};
#pragma unroll
    for (int level = 1; level < LEVELS; ++level) {
        if (side >= kThresholds[level - 1]) {
            roi.map = maps[level];
            roi.scale = kScales[level];
        }
    }
    return roi;
}

// Where the channels are known and fill every block, its loops have constant bounds; where they fill whole warps too,
// all lanes of a warp pool the same bin.
constexpr bool kFullBlocks = CHANNELS > 0 && CHANNELS % CHANNELS_PER_BLOCK == 0;
constexpr bool kWarpHasOneBin = CHANNELS_LAST && kFullBlocks && CHANNELS_PER_BLOCK / kWidth % 32 == 0;

constexpr bool kStaged = CHANNELS_LAST && !OUTPUT_CHANNELS_LAST;
constexpr int kRunWords = kBins * kWidth * int(sizeof(Element)) / 4;  // the output of kWidth channels
constexpr int kRunStride = kRunWords + 1;  // the lanes' writes are spread over all banks
// roi_pooling/kernel.py fits these words, and the taps of RoIAlign, into the shared memory of a block.
constexpr int kStageWords = kStaged ? CHANNELS_PER_BLOCK / kWidth * kRunStride : 1;

// Pools all bins of the RoI for the channels of this block. `pooler` gives, for a bin, the pooled value of kWidth
// neighbouring channels: pooler(their first cell, vectors from a cell to the next in x, bin, values).
template <class Pooler>
__device__ __forceinline__ void pool_bins(const Pooler& pooler, const Roi& roi, int channels, unsigned* stage,
                                          Element* __restrict__ pooled) {
    const int first_channel = blockIdx.y * CHANNELS_PER_BLOCK;
    const int groups = (kFullBlocks ? CHANNELS_PER_BLOCK : min(CHANNELS_PER_BLOCK, channels - first_channel)) / kWidth;
    const size_t cells = size_t(roi.map.height) * roi.map.width;
    const Vector* const maps = reinterpret_cast<const Vector*>(roi.map.cells + roi.image * cells * channels);
    pooled += size_t(blockIdx.x) * channels * kBins;
    if constexpr (CHANNELS_LAST) {  // neighbouring lanes, neighbouring channels
        const int bins_at_once = THREADS / groups, group = threadIdx.x % groups, step = channels / kWidth;
        const int first_bin = threadIdx.x < unsigned(bins_at_once * groups) ? threadIdx.x / groups : kBins;
        const int vector = first_channel / kWidth + group;
        for (int bin = first_bin; bin < kBins; bin += bins_at_once) {
            float values[kWidth] = {};
            if (roi.present) pooler(maps + vector, step, bin, values);
            if constexpr (kStaged) {
                Element* const run = reinterpret_cast<Element*>(stage + group * kRunStride);
#pragma unroll
                for (int i = 0; i < kWidth; ++i) run[i * kBins + bin] = from_float(values[i]);
            } else {
                Vector* const out = reinterpret_cast<Vector*>(pooled) + size_t(bin) * step + vector;
                store(reinterpret_cast<Element*>(out), values);
            }
        }
    } else {  // neighbouring lanes, neighbouring bins
        for (int item = threadIdx.x; item < groups * kBins; item += THREADS) {
            const int channel = first_channel + item / kBins, bin = item % kBins;
            float values[kWidth] = {};
            if (roi.present) pooler(maps + channel * cells, 1, bin, values);
            store(pooled + size_t(channel) * kBins + bin, values);
        }
    }
    if constexpr (kStaged) {
        __syncthreads();
        unsigned* const out = reinterpret_cast<unsigned*>(pooled + size_t(first_channel) * kBins);
        for (int word = threadIdx.x; word < groups * kRunWords; word += THREADS) out[word] = stage[word + word / kRunWords];
    }
}
