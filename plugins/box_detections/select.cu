// BoxDetections, third launch: the best MAX_DETECTIONS of all classes. One block an image.
//
// A key is unique and rises from better to worse: score, RoI, place in the classes' lists. The block gathers keys in shared
// memory; whenever that could not hold more, and at the end, it halves the range of keys until it has the key that just
// MAX_DETECTIONS reach, and drops the rest. Few classes and keys are gathered at once.
// 90 lists, 300 entries, 100 wanted: reads 3 KB, writes 2.4 KB; steps: three loads, about 12 counts of the block, 100 keys.
#include "box_detections/ranks.cuh"

constexpr int kWarps = THREADS / 32;
constexpr int kPerThread = MAX_KEYS / THREADS;
constexpr int kPerWarp = (MAX_KEYS - MAX_DETECTIONS) / kWarps;  // what each warp may add at a time
constexpr unsigned kBitsOfOne = 0x3f800000u;                    // the highest score
constexpr Key kPlaces = (Key(1) << PLACE_BITS) - 1;
static_assert(MAX_KEYS % THREADS == 0 && kPerWarp >= 32 && PLACE_BITS + ROI_BITS == 34, "30 bits are left for a score");

__device__ __forceinline__ Key key_of_score(float score) { return static_cast<Key>(kBitsOfOne - __float_as_uint(score)) << 34; }

// Adds the keys of the lanes that have one, in any order.
__device__ __forceinline__ int append(bool has, Key key, Key* keys, int* filled, int lane) {
    const unsigned lanes = __ballot_sync(kAllLanes, has);
    int place = 0;
    if (lane == 0 && lanes) place = atomicAdd(filled, __popc(lanes));
    place = __shfl_sync(kAllLanes, place, 0) + __popc(lanes & ((1u << lane) - 1u));
    if (has) keys[place] = key;
    return __popc(lanes);
}

// Leaves the best MAX_DETECTIONS of more keys, and returns a limit that no worse key is at or below.
__device__ __forceinline__ Key keep_best(Key* keys, int* filled, int held, int lane) {
    Key own[kPerThread];
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
        const int place = i * THREADS + threadIdx.x;
        own[i] = place < held ? keys[place] : ~Key(0);
    }
    Key low = 0, limit = key_of_score(fmaxf(SCORE_THRESHOLD, 0.f)) | ((Key(1) << 34) - 1);
    while (low < limit) {
        const Key middle = low + (limit - low) / 2;
        int count = 0;
#pragma unroll
        for (int i = 0; i < kPerThread; ++i) {
            if (i * THREADS < held) count += __syncthreads_count(own[i] <= middle);
        }
        if (count < MAX_DETECTIONS) {
            low = middle + 1;
        } else {
            limit = middle;
            if (count == MAX_DETECTIONS) break;
        }
    }
    if (threadIdx.x == 0) *filled = 0;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) append(own[i] <= limit, own[i], keys, filled, lane);
    __syncthreads();
    return limit;
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
box_detections_select(const int* __restrict__ kept_counts, const float* __restrict__ kept_scores,
                      const int* __restrict__ kept_rois, const float4* __restrict__ kept_boxes, int lists, int list_length,
                      int* __restrict__ num_detections, float4* __restrict__ boxes, float* __restrict__ scores,
                      int* __restrict__ labels) {
    __shared__ Key keys[MAX_KEYS];
    __shared__ int filled;

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const size_t first_place = size_t(blockIdx.x) * lists * list_length;
    kept_counts += size_t(blockIdx.x) * lists;
    kept_scores += first_place;
    kept_rois += first_place;
    kept_boxes += first_place;

    Key limit = ~Key(0);
    if (threadIdx.x == 0) filled = 0;
    for (int first = 0; first < lists; first += THREADS) {
        const int list = first + kWarps * lane + warp;  // of this lane; neighbours go to different warps
        const int count = list < lists ? kept_counts[list] : 0;
        const int end = inclusive_sum(count, lane), total = __shfl_sync(kAllLanes, end, 31);
        int at = 0;
        bool more;
        do {
            __syncthreads();
            for (int added = 0; at < total && added <= kPerWarp - 32; at += 32) {
                const int entry = min(at + lane, total - 1);
                int owner = 0;  // the first lane whose list ends behind the entry
#pragma unroll
                for (int step = 16; step > 0; step /= 2) {
                    if (__shfl_sync(kAllLanes, end, owner + step - 1) <= entry) owner += step;
                }
                const int start = __shfl_sync(kAllLanes, end - count, owner);
                const int place = __shfl_sync(kAllLanes, list, owner) * list_length + entry - start;
                const Key key = key_of_score(kept_scores[place]) | static_cast<Key>(kept_rois[place]) << PLACE_BITS | place;
                added += append(at + lane < total && key <= limit, key, keys, &filled, lane);
            }
            more = __syncthreads_or(at < total);
            const int held = filled;
            if (held > MAX_DETECTIONS) limit = keep_best(keys, &filled, held, lane);
        } while (more);
    }
    __syncthreads();
    const int found = filled;
    sort_any(keys, found);

    boxes += size_t(blockIdx.x) * MAX_DETECTIONS;
    scores += size_t(blockIdx.x) * MAX_DETECTIONS;
    labels += size_t(blockIdx.x) * MAX_DETECTIONS;
    if (threadIdx.x == 0) num_detections[blockIdx.x] = found;
    for (int rank = threadIdx.x; rank < MAX_DETECTIONS; rank += THREADS) {
        const Key key = rank < found ? keys[rank] : 0;
        const int place = static_cast<int>(key & kPlaces);
        boxes[rank] = rank < found ? kept_boxes[place] : make_float4(0.f, 0.f, 0.f, 0.f);
        scores[rank] = rank < found ? __uint_as_float(kBitsOfOne - static_cast<unsigned>(key >> 34)) : 0.f;
        labels[rank] = rank < found ? place / list_length + 1 : 0;
    }
}
