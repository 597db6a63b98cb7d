// RegionProposals, fourth launch: of the candidates of a level of an image (blockIdx.x), keep what no kept one overlaps.
//
// Tile by tile of 32: the warp that owns the tile decides it by votes, then every later row looks whether one of the
// kept 32 overlaps it. One barrier a tile; words are loaded kAhead tiles ahead.
#include "cuda/element.cuh"
#include "region_proposals/overlaps.cuh"

constexpr int kWarps = THREADS / 32;
constexpr int kRows = (CANDIDATES + THREADS - 1) / THREADS;  // rows of a thread: threadIdx.x + i * THREADS
constexpr int kAhead = 4;

// Decides 32 boxes in order; `word` is this lane's row against its own tile. Votes until nothing changes: after n of
// them the first n boxes are right, and the only choice that stays is the greedy one.
__device__ __forceinline__ unsigned decide(bool alive, unsigned word) {
    unsigned kept = __ballot_sync(0xffffffffu, alive), before;
    do {
        before = kept;
        kept = __ballot_sync(0xffffffffu, alive && !(word & before));
    } while (kept != before);
    return kept;
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
region_proposals_resolve(const float4* __restrict__ boxes, const float* __restrict__ scores,
                         const unsigned* __restrict__ overlaps, float4* __restrict__ kept_boxes,
                         float* __restrict__ kept_scores, int* __restrict__ kept_counts) {
    __shared__ unsigned kept_of[kTiles];

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const size_t first_row = size_t(blockIdx.x) * CANDIDATES;
    overlaps += size_t(blockIdx.x) * kWords;
    const auto word_of = [&](int tile, int row) {
        return row / 32 >= tile && row / 32 < kTiles ? overlaps[word_at(tile, row)] : 0u;
    };

    float own_scores[kRows];
    int places[kRows];
    bool alive[kRows];
    unsigned words[kAhead][kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
        const int row = threadIdx.x + i * THREADS;
        own_scores[i] = row < CANDIDATES ? scores[first_row + row] : -1.f;
        alive[i] = own_scores[i] >= 0.f;
        places[i] = 0;
#pragma unroll
        for (int j = 0; j < kAhead; ++j) words[j][i] = word_of(j, row);
    }

    int count = 0;  // of the kept
    for (int first = 0; first < kTiles; first += kAhead) {
#pragma unroll
        for (int j = 0; j < kAhead; ++j) {
            const int tile = first + j;
            if (tile >= kTiles) break;
            if (warp == tile % kWarps) {
                unsigned kept = 0;
#pragma unroll
                for (int i = 0; i < kRows; ++i) {
                    if (i == tile / kWarps) kept = decide(alive[i], words[j][i]);
                }
                if (lane == 0) kept_of[tile] = kept;
            }
            __syncthreads();
            const unsigned kept = kept_of[tile];
#pragma unroll
            for (int i = 0; i < kRows; ++i) {
                const int row = threadIdx.x + i * THREADS;
                if (row / 32 > tile && (words[j][i] & kept)) alive[i] = false;
                if (row / 32 == tile) {
                    alive[i] = kept >> lane & 1u;
                    places[i] = count + __popc(kept & ((1u << lane) - 1u));
                }
                words[j][i] = word_of(tile + kAhead, row);
            }
            count += __popc(kept);
        }
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
        if (!alive[i]) continue;
        kept_boxes[first_row + places[i]] = boxes[first_row + threadIdx.x + i * THREADS];
        kept_scores[first_row + places[i]] = own_scores[i];
    }
    if (threadIdx.x == 0) kept_counts[blockIdx.x] = count;
}
