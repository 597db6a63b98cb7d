// MultiscaleRoIAlign: bilinear samples, averaged per bin. Semantics of torchvision.ops.roi_align (arXiv:1703.06870);
// sample positions are computed by the same float32 operations in the same order, so that no sample changes cells. The
// weights of a cell are summed before it is multiplied, so a bin may differ by 1e-6 of the largest cell.
//
// 1,000 random RoIs of 256 channels, 7 x 7 bins of 2 x 2 samples, float16: writes 25 MB; reads a RoI's cells, 128 MB,
// from the second level of cache at best, and 9.9 of the 16 sampled cells of a bin, 248 MB, from the first; 0.25 GFLOP,
// half as many conversions. Steps: the RoI, two divisions, a barrier; for each of a warp's 10 bins its taps, and for each
// of their 2 to 4 rows a load of its cells and a sum.
#include "roi_pooling/pooling.cuh"

// A cell on one axis: how many vectors it lies from the first, of fewer than 2^32 (64 GiB) in an image, and its weight.
struct Tap {
    unsigned place;
    float weight;
};

// A sample on one axis: two neighbouring cells and their weights; cells -1 where it is off the map.
struct Sample {
    int low, high;
    float low_weight, high_weight;
};

__device__ __forceinline__ Sample sample_at(float position, int cells) {
    if (!(position >= -1.f && position <= float(cells))) return Sample{-1, -1, 0.f, 0.f};
    if (position <= 0.f) position = 0.f;
    int low = int(position), high = low + 1;
    if (low >= cells - 1) {
        low = high = cells - 1;
        position = float(low);
    }
    const float high_weight = position - float(low);
    return Sample{low, high, 1.f - high_weight, high_weight};
}

// One axis of a RoI: bins of `samples` samples each.
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

    __device__ __forceinline__ Sample sample(int in_bin, int i) const {
        return sample_at(start + float(in_bin) * bin + (float(i) + 0.5f) * bin / samples_as_float, cells);
    }
};

#if SAMPLING_RATIO > 0

constexpr int kBinTaps = 2 * SAMPLING_RATIO;
constexpr int kAtOnce = kBinTaps < 4 ? kBinTaps : 4;  // loads of a thread
constexpr int kStoredTaps = (kBinTaps + kAtOnce - 1) / kAtOnce * kAtOnce;

// The cells of each row and each column of bins. Neighbouring samples of a bin often share cells: a cell is there once,
// with the sum of its weights over the number of samples, so that a bin is the product of few row and few column taps.
// The rest of a bin's taps repeat its last cell with weight 0: no cell is read that no sample reads.
struct Table {
    Tap taps[OUTPUT_HEIGHT + OUTPUT_WIDTH][kStoredTaps];
    int counts[OUTPUT_HEIGHT + OUTPUT_WIDTH];
};

// Returns the number of taps of a bin on one axis. Positions never fall from a sample to the next, so its cells are new
// or those of the sample before.
__device__ __forceinline__ int merge_samples(const Axis& axis, int bin, unsigned step, Tap (&taps)[kStoredTaps]) {
    int count = 0;
    const auto write = [&](int cell, float weight) {
        taps[count++] = Tap{unsigned(cell) * step, weight / float(SAMPLING_RATIO)};
    };
    Sample last{-1, -1, 0.f, 0.f};
#pragma unroll 2
    for (int i = 0; i < SAMPLING_RATIO; ++i) {
        Sample sample = axis.sample(bin, i);
        if (sample.low < 0) continue;
        if (sample.low == last.low) {
            sample.low_weight += last.low_weight;
            sample.high_weight += last.high_weight;
        } else if (last.low >= 0) {
            write(last.low, last.low_weight);
            if (sample.low == last.high) {
                sample.low_weight += last.high_weight;
            } else {
                write(last.high, last.high_weight);
            }
        }
        last = sample;
    }
    if (last.low >= 0) {
        write(last.low, last.low_weight);
        if (last.high != last.low) write(last.high, last.high_weight);
    }
    for (int i = count; i < kStoredTaps; ++i) taps[i] = Tap{unsigned(max(last.high, 0)) * step, 0.f};
    return count;
}

struct Align {
    const Table& table;

    __device__ __forceinline__ Align(const Roi& roi, int channels, Table& shared) : table(shared) {
        const unsigned step = CHANNELS_LAST ? channels / kWidth : 1;
        for (int i = threadIdx.x; i < OUTPUT_HEIGHT + OUTPUT_WIDTH; i += THREADS) {
            const bool row = i < OUTPUT_HEIGHT;
            const Axis axis(row ? roi.box.y : roi.box.x, row ? roi.box.w : roi.box.z, roi.scale,
                            row ? OUTPUT_HEIGHT : OUTPUT_WIDTH, row ? roi.map.height : roi.map.width);
            shared.counts[i] = merge_samples(axis, row ? i : i - OUTPUT_HEIGHT,
                                             row ? step * unsigned(roi.map.width) : step, shared.taps[i]);
        }
        __syncthreads();
    }

    __device__ __forceinline__ void operator()(const Vector* __restrict__ cells, int, int bin,
                                               float (&values)[kWidth]) const {
        const int row = bin / OUTPUT_WIDTH, column = OUTPUT_HEIGHT + bin % OUTPUT_WIDTH;
        const Tap *const ys = table.taps[row], *xs = table.taps[column];
        const int rows = table.counts[row];
        int columns = table.counts[column];
        for (; kStoredTaps > kAtOnce && columns > kAtOnce; columns -= kAtOnce, xs += kAtOnce) {
            add_columns<kAtOnce>(cells, ys, rows, xs, values);
        }
        // A warp of one bin takes one of these branches; lanes of different bins would wait for each other in several.
        if (columns == kAtOnce || (!kWarpHasOneBin && columns > 0)) {
            add_columns<kAtOnce>(cells, ys, rows, xs, values);
        } else if (columns == 3) {
            add_columns<3>(cells, ys, rows, xs, values);
        } else if (columns == 2) {
            add_columns<2>(cells, ys, rows, xs, values);
        } else if (columns == 1) {
            add_columns<1>(cells, ys, rows, xs, values);
        }
    }

    template <int COLUMNS>
    static __device__ __forceinline__ void add_columns(const Vector* __restrict__ cells, const Tap* ys, int rows,
                                                       const Tap* xs, float (&values)[kWidth]) {
        Tap x[COLUMNS];
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) x[j] = xs[j];
#pragma unroll 1
        for (int i = 0; i < rows; ++i) {
            const Tap y = ys[i];
            Vector loaded[COLUMNS];
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) loaded[j] = cells[y.place + x[j].place];
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) {
                float of_cell[kWidth];
                widen(loaded[j], of_cell);
                const float weight = y.weight * x[j].weight;
#pragma unroll
                for (int k = 0; k < kWidth; ++k) values[k] = fmaf(weight, of_cell[k], values[k]);
            }
        }
    }
};

#else

struct Table {};

struct Align {
    Axis rows, columns;

    __device__ __forceinline__ Align(const Roi& roi, int, Table&)
        : rows(roi.box.y, roi.box.w, roi.scale, OUTPUT_HEIGHT, roi.map.height),
          columns(roi.box.x, roi.box.z, roi.scale, OUTPUT_WIDTH, roi.map.width) {}

    // The samples of a bin that can be on the map, and a few that cannot: a RoI far larger than the map stays cheap.
    static __device__ __forceinline__ void on_map(const Axis& axis, int bin, int& first, int& end) {
        const float from = axis.start + float(bin) * axis.bin, step = axis.bin / axis.samples_as_float;
        const float low = (-1.f - from) / step, high = (float(axis.cells) - from) / step;
        const float slack = 2.f + 1e-6f * fmaxf(fabsf(low), fabsf(high));
        first = low > slack ? int(fminf(low - slack, axis.samples_as_float)) : 0;
        end = high + slack < axis.samples_as_float ? int(fmaxf(high + slack, 0.f)) : axis.samples;
    }

    __device__ __forceinline__ void operator()(const Vector* __restrict__ cells, int step, int bin,
                                               float (&values)[kWidth]) const {
        const int row = bin / OUTPUT_WIDTH, column = bin % OUTPUT_WIDTH;
        int first_row, end_row, first_column, end_column;
        on_map(rows, row, first_row, end_row);
        on_map(columns, column, first_column, end_column);
        for (int i = first_row; i < end_row; ++i) {
            const Sample y = rows.sample(row, i);
            for (int j = first_column; j < end_column; ++j) {
                const Sample x = columns.sample(column, j);
                if (y.low >= 0 && x.low >= 0) add_sample(cells, step, y, x, values);
            }
        }
        const float samples = fmaxf(rows.samples_as_float * columns.samples_as_float, 1.f);
#pragma unroll
        for (int k = 0; k < kWidth; ++k) values[k] = values[k] / samples;
    }

    __device__ __forceinline__ void add_sample(const Vector* __restrict__ cells, int step, const Sample& y,
                                               const Sample& x, float (&values)[kWidth]) const {
        const int width = columns.cells;
        const Vector* const low_row = cells + size_t(y.low) * width * step;
        const Vector* const high_row = cells + size_t(y.high) * width * step;
        float a[kWidth], b[kWidth], c[kWidth], d[kWidth];
        widen(low_row[size_t(x.low) * step], a);
        widen(low_row[size_t(x.high) * step], b);
        widen(high_row[size_t(x.low) * step], c);
        widen(high_row[size_t(x.high) * step], d);
        const float wa = y.low_weight * x.low_weight, wb = y.low_weight * x.high_weight;
        const float wc = y.high_weight * x.low_weight, wd = y.high_weight * x.high_weight;
#pragma unroll
        for (int k = 0; k < kWidth; ++k) values[k] += fmaf(wd, d[k], fmaf(wc, c[k], fmaf(wb, b[k], wa * a[k])));
    }
};

#endif

// Threads of a multiprocessor, which leave 40, 48 or 80 registers to each.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int kMostResidentThreads = 1280;  // for Blackwell the compiler spills at 40 registers
#else
constexpr int kMostResidentThreads = 1536;
#endif
constexpr int kResidentThreads = SAMPLING_RATIO == 0             ? 768
                                 : SAMPLING_RATIO > 2 || kStaged ? 1280
                                                                 : kMostResidentThreads;

extern "C" __global__ void __launch_bounds__(THREADS, kResidentThreads / THREADS)
multiscale_roi_align(const float4* __restrict__ rois, EACH_LEVEL(MAP_POINTER), int rois_per_image, int channels_given,
                     EACH_LEVEL(MAP_HEIGHT), EACH_LEVEL(MAP_WIDTH), Element* __restrict__ pooled) {
    const int channels = CHANNELS > 0 ? CHANNELS : channels_given;
    const Map maps[] = {EACH_LEVEL(MAP_OF)};
    __shared__ Table table;
    __shared__ unsigned stage[kStageWords];
    const Roi roi = find_roi(rois, maps, rois_per_image);
    pool_bins(Align(roi, channels, table), roi, channels, stage, pooled);
}
