// RegionProposals, first launch: the largest logits of each chunk of CHUNK logits of a level, in any order.
//
// A chunk is consecutive in memory, anchor by anchor; its candidates are written as ordered logit and index (y * width
// + x) * anchors + anchor, at least the CANDIDATES best of them and at most SLOTS, 0 in the slots behind them.
//
// R50-FPN, 800 x 1344, 1000 of each level, one image: 0.5 MB read (half floats) and 0.2 MB written by 20 blocks.
// Dependent: one load, about 12 counts of 32 keys a thread with a barrier each, a prefix sum.
#include "cuda/each_level.cuh"
#include "cuda/element.cuh"
#include "region_proposals/selection.cuh"

constexpr int kPerThread = CHUNK / THREADS;
#define LOGITS_POINTER(i) const Element* __restrict__ objectness_##i
#define CELLS(i) int cells_##i
#define LOGITS_OF(i) objectness_##i
#define CELLS_OF(i) cells_##i

// The logits of a thread: every THREADS-th of the chunk from `first` on.
struct ChunkKeys {
    unsigned own[kPerThread];
    int first, cells, anchors;

    template <class F>
    __device__ __forceinline__ void each(const F& f) const {
#pragma unroll
        for (int i = 0; i < kPerThread; ++i) f(own[i]);
    }

    template <class F>
    __device__ __forceinline__ void each_indexed(const F& f) const {
        int anchor = first / cells, cell = first - anchor * cells;
#pragma unroll
        for (int i = 0; i < kPerThread; ++i) {
            f(own[i], static_cast<unsigned>(cell * anchors + anchor));
            for (cell += THREADS; cell >= cells; cell -= cells) ++anchor;
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 1)
region_proposals_select(EACH_LEVEL(LOGITS_POINTER), EACH_LEVEL(CELLS), unsigned* __restrict__ logits,
                        unsigned* __restrict__ indices) {
    __shared__ unsigned sums[2][kWarps];
    __shared__ int counter;

    const Element* const all_maps[] = {EACH_LEVEL(LOGITS_OF)};
    const int all_cells[] = {EACH_LEVEL(CELLS_OF)};
    constexpr int kAnchors[] = {ANCHORS_PER_CELL};
    const Element* map = all_maps[0];
    int chunk = blockIdx.x;
    ChunkKeys keys;
    keys.cells = all_cells[0];
    keys.anchors = kAnchors[0];
    int passed = 0;  // chunks of the levels before
#pragma unroll
    for (int level = 1; level < LEVELS; ++level) {
        passed += (kAnchors[level - 1] * all_cells[level - 1] + CHUNK - 1) / CHUNK;
        if (static_cast<int>(blockIdx.x) >= passed) {
            map = all_maps[level];
            keys.cells = all_cells[level];
            keys.anchors = kAnchors[level];
            chunk = blockIdx.x - passed;
        }
    }

    const int size = keys.anchors * keys.cells;  // of the level
    map += size_t(blockIdx.y) * size;
    keys.first = chunk * CHUNK + threadIdx.x;
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
        const int at = keys.first + i * THREADS;
        keys.own[i] = at < size ? ordered(to_float(map[at])) : 0u;
    }
    if (threadIdx.x == 0) counter = 0;

    BlockSum sum{sums, 0};
    const Threshold threshold = find_threshold(keys, CANDIDATES, SLOTS, 32 - __clz(size), sum);
    int own = 0;
    keys.each_indexed([&](unsigned key, unsigned index) { own += threshold.takes(key, index); });
    int place = place_for(own, &counter);
    const size_t first_slot = (size_t(blockIdx.y) * gridDim.x + blockIdx.x) * SLOTS;
    keys.each_indexed([&](unsigned key, unsigned index) {
        if (!threshold.takes(key, index)) return;
        logits[first_slot + place] = key;
        indices[first_slot + place] = index;
        ++place;
    });
    __syncthreads();
    for (int slot = counter + threadIdx.x; slot < SLOTS; slot += THREADS) {
        logits[first_slot + slot] = 0u;
        indices[first_slot + slot] = 0u;
    }
}
