// MultiscaleRoIPool: the largest cell of each bin. Semantics of torchvision.ops.roi_pool (arXiv:1504.08083): the RoI is
// rounded to whole cells, an empty bin is 0, a cell that is not a number never wins.
//
// 1,000 random RoIs of 256 channels, 7 x 7 bins, float16: writes 25 MB; reads 15 cells a bin, 381 MB, from the first
// level of cache; 0.2 G comparisons. Steps: the RoI, a division; for each of a warp's 10 bins its cells, one by one.
#include "roi_pooling/pooling.cuh"

struct MaxPool {
    int top, left, rows, columns;  // of the RoI, in cells
    int map_height, map_width;

    explicit __device__ __forceinline__ MaxPool(const Roi& roi)
        : top(cell(roi.box.y * roi.scale)),
          left(cell(roi.box.x * roi.scale)),
          map_height(roi.map.height),
          map_width(roi.map.width) {
        rows = max(cell(roi.box.w * roi.scale) - top + 1, 1);
        columns = max(cell(roi.box.z * roi.scale) - left + 1, 1);
    }

    // Cells this far out are on no map; the limit keeps the sums below within an int.
    static __device__ __forceinline__ int cell(float position) {
        constexpr float kFar = 536870912.f;
        return int(fminf(fmaxf(roundf(position), -kFar), kFar));
    }

    static __device__ __forceinline__ void range(int bin, int bins, int start, int cells, int limit, int& first, int& end) {
        const float size = float(cells) / float(bins);
        first = min(max(int(floorf(float(bin) * size)) + start, 0), limit);
        end = min(max(int(ceilf(float(bin + 1) * size)) + start, 0), limit);
    }

    __device__ __forceinline__ void operator()(const Vector* __restrict__ cells, int step, int bin,
                                               float (&values)[kWidth]) const {
        int first_row, end_row, first_column, end_column;
        range(bin / OUTPUT_WIDTH, OUTPUT_HEIGHT, top, rows, map_height, first_row, end_row);
        range(bin % OUTPUT_WIDTH, OUTPUT_WIDTH, left, columns, map_width, first_column, end_column);
        if (first_row >= end_row || first_column >= end_column) return;  // empty: 0
#pragma unroll
        for (int k = 0; k < kWidth; ++k) values[k] = -3.402823466e+38f;
        for (int y = first_row; y < end_row; ++y) {
            const Vector* const row = cells + size_t(y) * map_width * step;
            for (int x = first_column; x < end_column; ++x) {
                float of_cell[kWidth];
                widen(row[size_t(x) * step], of_cell);
#pragma unroll
                for (int k = 0; k < kWidth; ++k) values[k] = of_cell[k] > values[k] ? of_cell[k] : values[k];
            }
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 3)
multiscale_roi_pool(const float4* __restrict__ rois, EACH_LEVEL(MAP_POINTER), int rois_per_image, int channels_given,
                    EACH_LEVEL(MAP_HEIGHT), EACH_LEVEL(MAP_WIDTH), Element* __restrict__ pooled) {
    const int channels = CHANNELS > 0 ? CHANNELS : channels_given;
    const Map maps[] = {EACH_LEVEL(MAP_OF)};
    __shared__ unsigned stage[kStageWords];
    const Roi roi = find_roi(rois, maps, rois_per_image);
    pool_bins(MaxPool(roi), roi, channels, stage, pooled);
}
