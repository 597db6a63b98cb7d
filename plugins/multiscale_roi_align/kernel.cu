// MultiscaleRoIAlign: bilinear samples, averaged per bin. Semantics of torchvision.ops.roi_align (arXiv:1703.06870);
// sample positions are computed by the same float32 operations in the same order, so that no sample changes cells.
#include "roi_pooling/pooling.cuh"

// Where a sample lies on one axis: two neighbouring cells and their weights; none where it is off the map.
struct Tap {
    int low, high;
    float low_weight, high_weight;
};

__device__ __forceinline__ Tap tap_at(float position, int cells) {
    if (!(position >= -1.f && position <= float(cells))) return Tap{-1, -1, 0.f, 0.f};
    if (position <= 0.f) position = 0.f;
    int low = int(position), high = low + 1;
    if (low >= cells - 1) {
        low = high = cells - 1;
        position = float(low);
    }
    const float high_weight = position - float(low);
    return Tap{low, high, 1.f - high_weight, high_weight};
}

// One axis of a RoI: BINS bins of `samples` samples each.
struct Axis {
    float start, bin, samples_as_float;
    int samples, cells;

    __device__ __forceinline__ Axis(float first, float last, float scale, int bins, int cells_) : cells(cells_) {
        const float offset = ALIGNED ? 0.5f : 0.f;
        start = first * scale - offset;
        float length = last * scale - offset - start;
        if (!ALIGNED) length = fmaxf(length, 1.f);
        bin = length / float(bins);
        samples = SAMPLING_RATIO > 0 ? SAMPLING_RATIO : int(fminf(ceilf(bin), 1073741824.f));  // within an int
        samples_as_float = float(samples);
    }

    __device__ __forceinline__ Tap tap(int in_bin, int sample) const {
        return tap_at(start + float(in_bin) * bin + (float(sample) + 0.5f) * bin / samples_as_float, cells);
    }

    // The samples of a bin that can be on the map, and a few that cannot: a RoI far larger than the map stays cheap.
    __device__ __forceinline__ void on_map(int in_bin, int& first, int& end) const {
        const float from = start + float(in_bin) * bin, step = bin / samples_as_float;
        const float low = (-1.f - from) / step, high = (float(cells) - from) / step;
        const float slack = 2.f + 1e-6f * fmaxf(fabsf(low), fabsf(high));
        first = low > slack ? int(fminf(low - slack, samples_as_float)) : 0;
        end = high + slack < samples_as_float ? int(fmaxf(high + slack, 0.f)) : samples;
    }
};

constexpr int kRowTaps = OUTPUT_HEIGHT * SAMPLING_RATIO, kTaps = kRowTaps + OUTPUT_WIDTH * SAMPLING_RATIO;

struct Align {
    Axis rows, columns;
    const Tap* taps;  // of all rows, then of all columns; every thread needs them, so a block computes them once

    __device__ __forceinline__ Align(const Roi& roi, Tap* shared_taps)
        : rows(roi.box.y, roi.box.w, roi.scale, OUTPUT_HEIGHT, roi.map.height),
          columns(roi.box.x, roi.box.z, roi.scale, OUTPUT_WIDTH, roi.map.width),
          taps(shared_taps) {
#if SAMPLING_RATIO > 0
        for (int i = threadIdx.x; i < kTaps; i += THREADS) {
            const int j = i < kRowTaps ? i : i - kRowTaps;
            const int bin = j / SAMPLING_RATIO, sample = j % SAMPLING_RATIO;
            shared_taps[i] = i < kRowTaps ? rows.tap(bin, sample) : columns.tap(bin, sample);
        }
        __syncthreads();
#endif
    }

    __device__ __forceinline__ void operator()(const Element* __restrict__ channel, int step, int bin,
                                               float (&values)[kWidth]) const {
        const int row = bin / OUTPUT_WIDTH, column = bin % OUTPUT_WIDTH;
#if SAMPLING_RATIO > 0
#pragma unroll 1
        for (int i = 0; i < SAMPLING_RATIO; ++i) {
            const Tap y = taps[row * SAMPLING_RATIO + i];
#pragma unroll 2
            for (int j = 0; j < SAMPLING_RATIO; ++j) {
                add_sample(channel, step, y, taps[kRowTaps + column * SAMPLING_RATIO + j], values);
            }
        }
#else
        int first_row, end_row, first_column, end_column;
        rows.on_map(row, first_row, end_row);
        columns.on_map(column, first_column, end_column);
        for (int i = first_row; i < end_row; ++i) {
            const Tap y = rows.tap(row, i);
            for (int j = first_column; j < end_column; ++j) add_sample(channel, step, y, columns.tap(column, j), values);
        }
#endif
        const float samples = fmaxf(rows.samples_as_float * columns.samples_as_float, 1.f);
#pragma unroll
        for (int k = 0; k < kWidth; ++k) values[k] = values[k] / samples;
    }

    __device__ __forceinline__ void add_sample(const Element* __restrict__ channel, int step, const Tap& y, const Tap& x,
                                               float (&values)[kWidth]) const {
        if (y.low < 0 || x.low < 0) return;
        const int width = columns.cells;
        const Element* const low_row = channel + size_t(y.low) * width * step;
        const Element* const high_row = channel + size_t(y.high) * width * step;
        float a[kWidth], b[kWidth], c[kWidth], d[kWidth];
        load(low_row + size_t(x.low) * step, a);
        load(low_row + size_t(x.high) * step, b);
        load(high_row + size_t(x.low) * step, c);
        load(high_row + size_t(x.high) * step, d);
        const float wa = y.low_weight * x.low_weight, wb = y.low_weight * x.high_weight;
        const float wc = y.high_weight * x.low_weight, wd = y.high_weight * x.high_weight;
#pragma unroll
        for (int k = 0; k < kWidth; ++k) values[k] += fmaf(wd, d[k], fmaf(wc, c[k], fmaf(wb, b[k], wa * a[k])));
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 3)
multiscale_roi_align(const float4* __restrict__ rois, EACH_LEVEL(MAP_POINTER), int rois_per_image, int channels,
                     EACH_LEVEL(MAP_HEIGHT), EACH_LEVEL(MAP_WIDTH), Element* __restrict__ pooled) {
    const Map maps[] = {EACH_LEVEL(MAP_OF)};
    __shared__ Tap taps[kTaps > 0 ? kTaps : 1];
    __shared__ unsigned stage[kStageWords];
    const Roi roi = find_roi(rois, maps, rois_per_image);
    pool_bins(Align(roi, taps), roi, channels, stage, pooled);
}
