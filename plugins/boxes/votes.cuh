// What the lanes of a warp decide and sum up together.
#pragma once

constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ int inclusive_sum(int value, int lane) {
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const int before = __shfl_up_sync(kAllLanes, value, step);
        if (lane >= step) value += before;
    }
    return value;
}

// Decides 32 boxes in rank order; `word` are the boxes before this lane's that overlap it. Votes until nothing changes: after
// n of them the first n boxes are right, and the only choice that stays is the greedy one.
__device__ __forceinline__ unsigned decide(bool alive, unsigned word) {
    unsigned kept = __ballot_sync(kAllLanes, alive), last;
    do {
        last = kept;
        kept = __ballot_sync(kAllLanes, alive && !(word & last));
    } while (kept != last);
    return kept;
}
