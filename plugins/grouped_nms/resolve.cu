// GroupedNMS, second launch: keep what no kept box suppresses. One block a group.
//
// Tile by tile of 32 ranks: the warp that owns the tile decides it by votes, then every later row looks whether one of
// the kept 32 suppresses it. `overlaps` is laid out as mask.cu says. Words are loaded a tile ahead.

constexpr int kWarps = THREADS / 32;
constexpr int kRows = MAX_BOXES / THREADS;  // ranks of one thread: threadIdx.x + i * THREADS

// Word of a row (rank) against a tile at or before its own.
__device__ __forceinline__ unsigned word_of(const unsigned* __restrict__ overlaps, int all_tiles, int tile, int rank) {
    return overlaps[32 * (tile * all_tiles - tile * (tile - 1) / 2) + rank - 32 * tile];
}

// Decides 32 boxes in rank order. `word` is this lane's row against its own tile. Each round decides at least the
// best undecided box; boxes that overlap nothing undecided are all decided at once.
__device__ __forceinline__ unsigned decide(bool alive, unsigned word, int lane) {
    unsigned undecided = __ballot_sync(0xffffffffu, alive), kept = 0;
    while (undecided) {
        const bool mine = undecided >> lane & 1u;
        kept |= __ballot_sync(0xffffffffu, mine && !(word & (undecided | kept)));
        undecided = __ballot_sync(0xffffffffu, mine && !(kept >> lane & 1u) && !(word & kept));
    }
    return kept;
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
grouped_nms_resolve(const float* __restrict__ scores, const int* __restrict__ order,
                    const unsigned* __restrict__ overlaps, int boxes_per_group, float* __restrict__ kept_scores) {
    __shared__ unsigned kept_of[MAX_BOXES / 32];

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int all_tiles = (boxes_per_group + 31) / 32;
    scores += size_t(blockIdx.x) * boxes_per_group;
    order += size_t(blockIdx.x) * boxes_per_group;
    kept_scores += size_t(blockIdx.x) * boxes_per_group;
    overlaps += size_t(blockIdx.x) * (16 * all_tiles * (all_tiles + 1));

    int index[kRows], present = 0;
    unsigned own[kRows], ahead[kRows];
    unsigned alive = 0;  // bit i: rank threadIdx.x + i * THREADS is not suppressed
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
        const int rank = threadIdx.x + i * THREADS;
        index[i] = rank < boxes_per_group ? order[rank] : -1;
        if (rank < boxes_per_group) kept_scores[rank] = -1.f;
        if (index[i] >= 0) alive |= 1u << i;
        own[i] = index[i] >= 0 ? word_of(overlaps, all_tiles, rank / 32, rank) : 0u;
        ahead[i] = index[i] >= 0 ? word_of(overlaps, all_tiles, 0, rank) : 0u;
        present += __syncthreads_count(index[i] >= 0);
    }

    const int tiles = (present + 31) / 32;
    for (int tile = 0; tile < tiles; ++tile) {
        if (warp == tile % kWarps) {
            const int turn = tile / kWarps;
            unsigned word = 0;
#pragma unroll
            for (int i = 0; i < kRows; ++i) word = i == turn ? own[i] : word;
            const unsigned kept = decide(alive >> turn & 1u, word, lane);
            if (!(kept >> lane & 1u)) alive &= ~(1u << turn);
            if (lane == 0) kept_of[tile] = kept;
        }
        unsigned words[kRows];
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
            const int rank = threadIdx.x + i * THREADS;
            words[i] = ahead[i];
            const bool more = rank < present && rank / 32 > tile + 1;
            ahead[i] = more ? word_of(overlaps, all_tiles, tile + 1, rank) : 0u;
        }
        __syncthreads();
        const unsigned kept = kept_of[tile];
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
            const int rank = threadIdx.x + i * THREADS;
            if (rank / 32 > tile && (words[i] & kept)) alive &= ~(1u << i);
        }
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
        if (alive >> i & 1u) kept_scores[index[i]] = scores[index[i]];
    }
}
