// RegionProposals, fourth launch: of the candidates of a level of an image (blockIdx.x), keep what no kept one
// overlaps.
//
// A warp owns kTilesOfWarp tiles of 32 candidates that follow each other, a lane one of each. Warp after warp decides
// its tiles by votes; then every later candidate looks whether a kept one of them overlaps it. One barrier a warp; the
// words for the kAhead next ones are on their way.
//
// R50-FPN, 1000 of each of 5 levels, one image: 0.35 MB read, 0.1 MB written, by 5 blocks. Dependent: a load, 16 turns
// of two decisions (3 to 5 votes each) and a barrier, a store.
#include "boxes/votes.cuh"
#include "region_proposals/overlaps.cuh"

constexpr int kWarps = THREADS / 32;
constexpr int kTilesOfWarp = TILES_OF_WARP;
constexpr int kAhead = kTilesOfWarp == 2 ? 4 : kTilesOfWarp == 4 ? 2 : 1;

// The words of a lane's rows against the tiles of the warp whose turn it is, 0 where there is none.
struct Words {
    unsigned of[kTilesOfWarp][kTilesOfWarp];  // row, tile

    __device__ __forceinline__ void load(const unsigned* __restrict__ overlaps, int turn) {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
        for (int j = 0; j < kTilesOfWarp; ++j) {
            const unsigned* const words = overlaps + word_at(turn * kTilesOfWarp + j, 32 * kTilesOfWarp * warp + lane);
#pragma unroll
            for (int i = 0; i < kTilesOfWarp; ++i) {
                const bool there = (warp > turn || (warp == turn && i >= j)) && warp * kTilesOfWarp + i < kTiles;
                of[i][j] = there ? words[32 * i] : 0u;
            }
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 1)
region_proposals_resolve(const float4* __restrict__ boxes, const float* __restrict__ scores,
                         const unsigned* __restrict__ overlaps, float4* __restrict__ kept_boxes,
                         float* __restrict__ kept_scores, int* __restrict__ kept_counts) {
    __shared__ unsigned kept_of[kWarps][kTilesOfWarp];

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first_row = 32 * kTilesOfWarp * warp + lane;
    const size_t level = size_t(blockIdx.x) * CANDIDATES;
    overlaps += size_t(blockIdx.x) * kWords;

    bool alive[kTilesOfWarp];
#pragma unroll
    for (int i = 0; i < kTilesOfWarp; ++i) {
        const int row = first_row + 32 * i;
        alive[i] = row < CANDIDATES && scores[level + row] >= 0.f;
    }

    Words words[kAhead];
#pragma unroll
    for (int ahead = 0; ahead < kAhead; ++ahead) words[ahead].load(overlaps, ahead);
    int count = 0, place = 0;  // of the kept, and of those before this warp's
    for (int first_turn = 0; first_turn < kWarps; first_turn += kAhead) {
#pragma unroll
        for (int ahead = 0; ahead < kAhead; ++ahead) {
            const int turn = first_turn + ahead;
            if (turn >= kWarps) continue;
            if (warp == turn) {
                place = count;
#pragma unroll
                for (int j = 0; j < kTilesOfWarp; ++j) {
                    const unsigned kept = decide(alive[j], words[ahead].of[j][j]);
                    if (lane == 0) kept_of[turn][j] = kept;
#pragma unroll
                    for (int i = j + 1; i < kTilesOfWarp; ++i) alive[i] = alive[i] && !(words[ahead].of[i][j] & kept);
                }
            }
            __syncthreads();
#pragma unroll
            for (int j = 0; j < kTilesOfWarp; ++j) {
                const unsigned kept = kept_of[turn][j];
                count += __popc(kept);
#pragma unroll
                for (int i = 0; i < kTilesOfWarp; ++i) {
                    alive[i] = alive[i] && !(warp > turn && (words[ahead].of[i][j] & kept));
                }
            }
            words[ahead].load(overlaps, turn + kAhead);
        }
    }
#pragma unroll
    for (int i = 0; i < kTilesOfWarp; ++i) {
        const unsigned kept = kept_of[warp][i];
        if (kept >> lane & 1u) {
            const size_t to = level + place + __popc(kept & ((1u << lane) - 1u)), from = level + first_row + 32 * i;
            kept_boxes[to] = boxes[from];
            kept_scores[to] = scores[from];
        }
        place += __popc(kept);
    }
    if (threadIdx.x == 0) kept_counts[blockIdx.x] = count;
}
