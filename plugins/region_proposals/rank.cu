// RegionProposals, second launch: the best candidates of a level (blockIdx.x) of an image (blockIdx.y) from those of
// its chunks, sorted, decoded and clipped.
//
// R50-FPN, 800 x 1344, 1000 of each level, one image: 0.2 MB of keys, 0.6 MB of sectors of deltas, 0.1 MB written, by 5
// blocks. Dependent: a load, about 14 counts of 32 keys a thread, a load, 55 steps of the sort (6 of them through
// shared memory), a load.
#include "boxes/decode.cuh"
#include "cuda/each_level.cuh"
#include "cuda/element.cuh"
#include "region_proposals/selection.cuh"

constexpr int kOwn = 32;                                       // keys that a thread holds
constexpr int kTurns = (CANDIDATES + THREADS - 1) / THREADS;  // candidates of a thread
constexpr bool kInShared = SORTED <= 4096;                     // whether a block has room for the sorted keys
#define DELTAS_POINTER(i) const Element* __restrict__ deltas_##i
#define HEIGHT(i) int height_##i
#define WIDTH(i) int width_##i
#define DELTAS_OF(i) deltas_##i
#define HEIGHT_OF(i) height_##i
#define WIDTH_OF(i) width_##i

__constant__ float kAnchorCorners[] = {ANCHORS};

// The keys of a level, the first of each thread in registers.
struct LevelKeys {
    const unsigned* __restrict__ logits;
    const unsigned* __restrict__ indices;
    unsigned own[kOwn];
    int size;

    template <class F>
    __device__ __forceinline__ void each(const F& f) const {
#pragma unroll
        for (int i = 0; i < kOwn; ++i) f(own[i]);
        for (int at = kOwn * THREADS + threadIdx.x; at < size; at += THREADS) f(logits[at]);
    }

    template <class F>
    __device__ __forceinline__ void each_indexed(const F& f) const {
        for (int at = threadIdx.x; at < size; at += THREADS) f(logits[at], indices[at]);
    }
};

__device__ __forceinline__ float logit_of(unsigned key) {
    return __uint_as_float(key & 0x80000000u ? key ^ 0x80000000u : ~key);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
region_proposals_rank(const int* __restrict__ image_sizes, const Element* __restrict__, EACH_LEVEL(DELTAS_POINTER),
                      const unsigned* __restrict__ logits, const unsigned* __restrict__ indices, int canvas_height,
                      int canvas_width, EACH_LEVEL(HEIGHT), EACH_LEVEL(WIDTH), float4* __restrict__ boxes,
                      float* __restrict__ scores) {
    __shared__ unsigned sums[2][kWarps];
    __shared__ int counter;
    __shared__ Key in_shared[kInShared ? SORTED : 1];
    __shared__ float lowest[kTurns * kWarps];

    const Element* const all_deltas[] = {EACH_LEVEL(DELTAS_OF)};
    const int heights[] = {EACH_LEVEL(HEIGHT_OF)}, widths[] = {EACH_LEVEL(WIDTH_OF)};
    constexpr int kAnchors[] = {ANCHORS_PER_CELL}, kStrides[] = {ANCHOR_STRIDES};
    const Element* deltas = all_deltas[0];
    int height = heights[0], width = widths[0], anchors = kAnchors[0], stride = kStrides[0], first_anchor = 0;
    int first_chunk = 0, chunks = 0, passed = 0, anchors_passed = 0;
#pragma unroll
    for (int level = 0; level < LEVELS; ++level) {
        const int level_chunks = (kAnchors[level] * heights[level] * widths[level] + CHUNK - 1) / CHUNK;
        if (static_cast<int>(blockIdx.x) >= level) {
            deltas = all_deltas[level];
            height = heights[level];
            width = widths[level];
            anchors = kAnchors[level];
            stride = kStrides[level];
            first_anchor = anchors_passed;
            first_chunk = passed;
            chunks = level_chunks;
        }
        passed += level_chunks;
        anchors_passed += kAnchors[level];
    }

    LevelKeys keys;
    const size_t first_slot = (size_t(blockIdx.y) * passed + first_chunk) * SLOTS;
    keys.logits = logits + first_slot;
    keys.indices = indices + first_slot;
    keys.size = chunks * SLOTS;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
        const int at = i * THREADS + threadIdx.x;
        keys.own[i] = at < keys.size ? keys.logits[at] : 0u;
    }
    if (threadIdx.x == 0) counter = 0;
    const size_t level = size_t(blockIdx.y) * LEVELS + blockIdx.x;
    boxes += level * CANDIDATES;
    // Otherwise they lie where the boxes will, which take twice as much for more than half of SORTED candidates.
    Key* const sorted = kInShared ? in_shared : reinterpret_cast<Key*>(boxes);

    BlockSum sum{sums, 0};
    const Threshold threshold = find_threshold(keys, CANDIDATES, SORTED, 32 - __clz(anchors * height * width), sum);
    int own = 0;
    keys.each_indexed([&](unsigned key, unsigned index) { own += threshold.takes(key, index); });
    int place = place_for(own, &counter);
    keys.each_indexed([&](unsigned key, unsigned index) {
        if (threshold.takes(key, index)) sorted[place++] = key_of(key, index);
    });
    __syncthreads();
    for (int i = counter + threadIdx.x; i < SORTED; i += THREADS) sorted[i] = ~Key(0);
    __syncthreads();
    sort<SORTED>(sorted);

    // Scores must not rise along the order of logits, as they might where exp rounds: the merge searches in them.
    float own_scores[kTurns];
    int indices_of[kTurns];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
        const int i = turn * THREADS + threadIdx.x;
        const Key own_key = i < CANDIDATES ? sorted[i] : ~Key(0);
        const unsigned key = ~static_cast<unsigned>(own_key >> 32);
        indices_of[turn] = static_cast<int>(own_key & 0xffffffffu);
        float score = key != 0u ? 1.f / (1.f + expf(-logit_of(key))) : -1.f;
#pragma unroll
        for (int lanes = 1; lanes < 32; lanes *= 2) score = fminf(score, __shfl_up_sync(0xffffffffu, score, lanes));
        if (lane == 31) lowest[turn * kWarps + warp] = score;
        own_scores[turn] = score;
    }
    __syncthreads();

    const size_t cells = size_t(height) * width;
    deltas += size_t(blockIdx.y) * 4 * anchors * cells;
    const float image_height = float(image_sizes[2 * blockIdx.y]), image_width = float(image_sizes[2 * blockIdx.y + 1]);
    const int step_y = stride ? stride : canvas_height / height, step_x = stride ? stride : canvas_width / width;
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
        const int i = turn * THREADS + threadIdx.x;
        if (i >= CANDIDATES) continue;
        float score = own_scores[turn];
        for (int before = 0; before < turn * kWarps + warp; ++before) score = fminf(score, lowest[before]);
        float4 box = make_float4(0.f, 0.f, 0.f, 0.f);  // overlaps nothing
        bool present = score >= fmaxf(SCORE_THRESHOLD, 0.f);
        if (present) {
            const int index = indices_of[turn], cell = index / anchors;
            const int anchor = index - cell * anchors, y = cell / width, x = cell - y * width;
            const float shift_x = float(x * step_x), shift_y = float(y * step_y);
            const float* const corners = kAnchorCorners + 4 * (first_anchor + anchor);
            float values[4];
#pragma unroll
            for (int k = 0; k < 4; ++k) values[k] = to_float(deltas[(4 * anchor + k) * cells + cell]);
            const float4 at = make_float4(shift_x + corners[0], shift_y + corners[1], shift_x + corners[2],
                                          shift_y + corners[3]);
            float4 decoded = decode(values, at);
            present = clip(decoded, image_height, image_width);
            if (present) box = decoded;
        }
        boxes[i] = box;
        scores[level * CANDIDATES + i] = present ? score : -1.f;
    }
}
