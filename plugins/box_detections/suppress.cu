// BoxDetections, second launch: the detections of each class, best first. One block a class and image.
//
// The block lists its candidates' RoIs by the bits of the first launch, computes scores and boxes, and sorts. Then tile by
// tile of 32 ranks, its warps share the comparisons with the boxes kept so far and inside the tile, and votes decide. It
// stops at MAX_DETECTIONS: worse boxes of a class cannot be among the best of all.
// 90 classes of 1,000 RoIs with 10 candidates each: reads 40 KB, writes 20 KB; steps: two loads, two sums of a warp, an
// exponential, 10 keys, 5 barriers. With 1,000 candidates each: reads 3 MB; 55 steps of the sort, at most 32 tiles of two
// barriers and 100 comparisons for each box: 9 million in all, of 25 operations.
#include "box_detections/ranks.cuh"

constexpr int kWarps = THREADS / 32;
constexpr Key kAbsent = ~Key(0);
constexpr bool kKeptInShared = MAX_DETECTIONS <= 640;  // with the rest they fit the 48 KiB of a block

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

// Decides 32 boxes in rank order. `word` are the boxes before this lane's that overlap it. Each round decides at least the
// best undecided box; boxes that overlap nothing undecided are all decided at once.
__device__ __forceinline__ unsigned decide(bool alive, unsigned word, int lane) {
    unsigned undecided = __ballot_sync(kAllLanes, alive), kept = 0;
    while (undecided) {
        const bool mine = undecided >> lane & 1u;
        kept |= __ballot_sync(kAllLanes, mine && !(word & (undecided | kept)));
        undecided = __ballot_sync(kAllLanes, mine && !(kept >> lane & 1u) && !(word & kept));
    }
    return kept;
}

extern "C" __global__ void __launch_bounds__(THREADS)
box_detections_suppress(const float4* __restrict__ rois, const int2* __restrict__ image_sizes,
                        const Element* __restrict__ class_logits, const Element* __restrict__ box_deltas,
                        const float2* __restrict__ statistics, const unsigned* __restrict__ candidates, int rois_per_image,
                        int classes, int* __restrict__ kept_counts, float* __restrict__ kept_scores,
                        int* __restrict__ kept_rois, float4* __restrict__ kept_boxes) {
    __shared__ Key keys[MAX_ROIS];
    __shared__ float4 staged[THREADS];  // boxes by rank, from a multiple of THREADS
    __shared__ float4 kept_here[kKeptInShared ? MAX_DETECTIONS : 1];
    __shared__ unsigned overlaps[kWarps][32];

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

    kept_scores += list * min(MAX_DETECTIONS, rois_per_image);
    kept_rois += list * min(MAX_DETECTIONS, rois_per_image);
    kept_boxes += list * min(MAX_DETECTIONS, rois_per_image);
    float4* const kept_list = kKeptInShared ? kept_here : kept_boxes;
    int kept = 0;
    for (int first = 0; first < present && kept < MAX_DETECTIONS; first += 32) {
        if (!few && first % THREADS == 0) {
            const int rank = first + threadIdx.x;
            if (rank < present) box_of(static_cast<unsigned>(keys[rank]), staged[threadIdx.x]);
            __syncthreads();
        }
        const float4* const tile = staged + first % THREADS;
        const int rows = min(32, present - first);
        const float4 mine = tile[min(lane, rows - 1)];
        const float area = area_of(mine);
        bool suppressed = false;
#pragma unroll 4
        for (int k = warp; k < kept; k += kWarps) {
            const float4 better = kept_list[k];
            suppressed |= overlap(better, area_of(better), mine, area);
        }
        unsigned word = 0;
#pragma unroll
        for (int k = 0; k < 32; k += kWarps) {
            const float4 better = tile[min(k + warp, rows - 1)];
            word |= static_cast<unsigned>(overlap(better, area_of(better), mine, area)) << (k + warp);
        }
        // a lane's own bit: whether a kept box of an earlier tile overlaps it
        overlaps[warp][lane] = (word & before) | static_cast<unsigned>(suppressed) << lane;
        __syncthreads();
        word = 0;
#pragma unroll
        for (int k = 0; k < kWarps; ++k) word |= overlaps[k][lane];
        const unsigned winners = decide(lane < rows && !(word >> lane & 1u), word & before, lane);
        const int place = kept + __popc(winners & before);
        if (warp == 0 && (winners >> lane & 1u) && place < MAX_DETECTIONS) {
            const Key key = keys[first + lane];
            kept_scores[place] = __uint_as_float(~static_cast<unsigned>(key >> 32) & 0x7fffffffu);
            kept_rois[place] = static_cast<int>(key & 0xffffffffu);
            kept_boxes[place] = mine;
            if (kKeptInShared) kept_here[place] = mine;
        }
        kept = min(kept + __popc(winners), MAX_DETECTIONS);
        __syncthreads();
    }
    if (threadIdx.x == 0) kept_counts[list] = kept;
}
