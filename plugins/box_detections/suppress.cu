// BoxDetections, second launch: the detections of each class, best first. One block a class and image.
//
// The block lists its candidates' RoIs by the bits of the first launch, computes scores and boxes, and sorts. Each thread
// then holds a box, by rank. The best 32 that are left are compared with each other by all warps and decided by votes, and
// every thread compares its own box with those that stay. Ranks that are more than threads follow, after a comparison with
// all boxes kept before. It stops at MAX_DETECTIONS: worse boxes of a class cannot be among the best of all.
// 90 classes of 1,000 RoIs with 10 candidates each: reads 0.1 MB, writes 20 KB; steps: two loads, a sum of a warp, an
// exponential, 10 keys, 7 barriers. With 1,000 candidates and 100 kept each: reads 3 MB; 55 steps of the sort, about 16
// rounds of three barriers, at most 9 million comparisons of 25 operations.
#include "box_detections/ranks.cuh"
#include "boxes/decode.cuh"
#include "boxes/overlap.cuh"
#include "cuda/element.cuh"

constexpr int kWarps = THREADS / 32;
constexpr int kColumns = 32 / kWarps;  // of a tile, that a warp compares with its rows
constexpr int kAtOnce = 4;             // comparisons of a thread that do not wait for each other
constexpr Key kAbsent = ~Key(0);

__device__ __forceinline__ void load4(const Element* __restrict__ from, float (&values)[4]) {
#if ELEMENT == 0
    const float4 raw = *reinterpret_cast<const float4*>(from);
#else
    const ushort4 raw = *reinterpret_cast<const ushort4*>(from);
#endif
    values[0] = to_float(raw.x);
    values[1] = to_float(raw.y);
    values[2] = to_float(raw.z);
    values[3] = to_float(raw.w);
}

extern "C" __global__ void __launch_bounds__(THREADS)
box_detections_suppress(const float4* __restrict__ rois, const int2* __restrict__ image_sizes,
                        const Element* __restrict__ class_logits, const Element* __restrict__ box_deltas,
                        const float2* __restrict__ statistics, const unsigned* __restrict__ candidates, int rois_per_image,
                        int classes, int* __restrict__ kept_counts, float* __restrict__ kept_scores,
                        int* __restrict__ kept_rois, float4* __restrict__ kept_boxes) {
    __shared__ Key keys[MAX_ROIS];
    __shared__ float4 staged[THREADS];  // boxes on their way to other threads
    __shared__ float4 tile[32];
    __shared__ unsigned overlaps[kWarps][32], left[kWarps];

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const unsigned before = (1u << lane) - 1u;
    const int label = blockIdx.x + 1;
    const size_t first_row = size_t(blockIdx.y) * rois_per_image;
    const size_t list = size_t(blockIdx.y) * gridDim.x + blockIdx.x;
    const int words = (rois_per_image + 31) / 32;
    candidates += list * words;

    int count = 0;
    for (int first = 0; first < words; first += 32) {
        const unsigned word = first + lane < words ? candidates[first + lane] : 0u;
        const int end = inclusive_sum(__popc(word), lane), start = count + end - __popc(word);
#pragma unroll
        for (int k = 0; k < 32; k += kWarps) {
            const unsigned of_warp = __shfl_sync(kAllLanes, word, k + warp);
            const int place = __shfl_sync(kAllLanes, start, k + warp) + __popc(of_warp & before);
            if (of_warp >> lane & 1u) keys[place] = 32 * (first + k + warp) + lane;
        }
        count += __shfl_sync(kAllLanes, end, 31);
    }
    if (count == 0) {
        if (threadIdx.x == 0) kept_counts[list] = 0;
        return;
    }
    __syncthreads();

    const int2 size = image_sizes[blockIdx.y];
    const auto box_of = [&](unsigned roi, float4& box) {
        float deltas[4];
        load4(box_deltas + ((first_row + roi) * classes + label) * 4, deltas);
        box = decode(deltas, rois[first_row + roi]);
        return clip(box, float(size.x), float(size.y));
    };
    float4 box = make_float4(0.f, 0.f, 0.f, 0.f);
    int present = 0;
    for (int start = 0; start < count; start += THREADS) {
        const int i = start + threadIdx.x;
        Key key = kAbsent;
        if (i < count) {
            const unsigned roi = static_cast<unsigned>(keys[i]);
            const float2 softmax = statistics[first_row + roi];
            const float logit = to_float(class_logits[(first_row + roi) * classes + label]);
            if (box_of(roi, box)) key = key_of(ordered(expf(logit - softmax.x) / softmax.y), roi);
            keys[i] = key;
        }
        present += __syncthreads_count(key != kAbsent);
    }
    const bool few = count <= THREADS;
    if (few) {
        const Key key = threadIdx.x < count ? keys[threadIdx.x] : kAbsent;
        const int rank = key == kAbsent ? 0 : rank_of(key, keys, count);
        __syncthreads();
        if (key != kAbsent) {
            keys[rank] = key;
            staged[rank] = box;
        }
        __syncthreads();
    } else {
        sort_any(keys, count);
    }

    const int list_length = min(MAX_DETECTIONS, rois_per_image);
    kept_scores += list * list_length;
    kept_rois += list * list_length;
    kept_boxes += list * list_length;
    int kept = 0;
    for (int first = 0; first < present && kept < MAX_DETECTIONS; first += THREADS) {
        bool undecided = first + threadIdx.x < present;
        const Key key = undecided ? keys[first + threadIdx.x] : kAbsent;
        if (undecided && few) box = staged[threadIdx.x];
        if (undecided && !few) box_of(static_cast<unsigned>(key), box);
        const float area = area_of(box);

        for (int start = 0; start < kept; start += THREADS) {
            const int some = min(THREADS, kept - start);
            __syncthreads();
            if (threadIdx.x < some) staged[threadIdx.x] = kept_boxes[start + threadIdx.x];
            __syncthreads();
            for (int k = 0; k < some && __any_sync(kAllLanes, undecided); k += kAtOnce) {
                bool is_suppressed = false;
#pragma unroll
                for (int i = 0; i < kAtOnce; ++i) {
                    const float4 better = staged[min(k + i, some - 1)];
                    is_suppressed |= overlap(better, area_of(better), box, area);
                }
                undecided = undecided && !is_suppressed;
            }
        }
        while (true) {
            const unsigned of_warp = __ballot_sync(kAllLanes, undecided);
            if (lane == 0) left[warp] = of_warp;
            __syncthreads();
            int place = __popc(of_warp & before), total = 0;
#pragma unroll
            for (int k = 0; k < kWarps; ++k) {
                if (k < warp) place += __popc(left[k]);
                total += __popc(left[k]);
            }
            const int rows = min(total, 32);
            const bool in_tile = undecided && place < 32;
            if (in_tile) tile[place] = box;
            __syncthreads();
            unsigned word = 0;
            if (kColumns * warp < rows) {
                const float4 row = tile[lane];  // anything, and so are columns, from `rows` on
                const float row_area = area_of(row);
#pragma unroll
                for (int k = kColumns * warp; k < kColumns * (warp + 1); ++k) {
                    word |= static_cast<unsigned>(overlap(tile[k], area_of(tile[k]), row, row_area)) << k;
                }
            }
            overlaps[warp][lane] = word & before;
            __syncthreads();
            word = 0;
#pragma unroll
            for (int k = 0; k < kWarps; ++k) word |= overlaps[k][lane];
            const unsigned winners = decide(lane < rows, word);
            if (in_tile && (winners >> place & 1u)) {
                const int rank = kept + __popc(winners & ((1u << place) - 1u));
                if (rank < MAX_DETECTIONS) {
                    kept_scores[rank] = __uint_as_float(~static_cast<unsigned>(key >> 32) & 0x7fffffffu);
                    kept_rois[rank] = static_cast<int>(key & 0xffffffffu);
                    kept_boxes[rank] = box;
                }
            }
            kept = min(kept + __popc(winners), MAX_DETECTIONS);
            if (total == rows || kept == MAX_DETECTIONS) break;
            undecided = undecided && !in_tile;
            int k = 0;
            for (unsigned rest = winners; rest && __any_sync(kAllLanes, undecided);) {
                bool is_suppressed = false;
#pragma unroll
                for (int i = 0; i < kAtOnce; ++i) {
                    if (rest) k = __ffs(rest) - 1;  // the last one again, where fewer are left
                    is_suppressed |= overlap(tile[k], area_of(tile[k]), box, area);
                    rest &= rest - 1u;
                }
                undecided = undecided && !is_suppressed;
            }
        }
    }
    if (threadIdx.x == 0) kept_counts[list] = kept;
}
