// The largest of many keys, found by a search for the threshold: one bit of it a step, each with a count over the
// block.
//
// Keys are ordered logits (boxes/keys.cuh), 0 where absent; equal ones are taken by rising index. A step costs one
// barrier, whatever the keys are, and the search ends as soon as the count is between what is wanted and what there is
// room for.
#pragma once
#include "boxes/keys.cuh"
#include "boxes/votes.cuh"

// The lowest bits of a key that tell nothing: what half floats and bfloat16 do not have.
constexpr int kUnusedBits = ELEMENT == 0 ? 0 : ELEMENT == 1 ? 13 : 16;
constexpr int kWarps = THREADS / 32;

// Keys from `key` on are taken; of those equal to it, where `bar` is not 0, the ones with ~index >= bar.
struct Threshold {
    unsigned key, bar;

    __device__ __forceinline__ bool takes(unsigned other, unsigned index) const {
        return other >= key && (bar == 0u || other - key >> kUnusedBits != 0u || ~index >= bar);
    }
};

__device__ __forceinline__ unsigned warp_sum(unsigned value) {
#if __CUDA_ARCH__ >= 800
    return __reduce_add_sync(0xffffffffu, value);
#else
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
    return value;
#endif
}

// Sums over the block. Two turns of words, so that a sum needs one barrier.
struct BlockSum {
    unsigned (*words)[kWarps];
    int turn;

    __device__ __forceinline__ unsigned operator()(unsigned value) {
        static_assert(kWarps <= 32, "a lane for each warp");
        const int lane = threadIdx.x % 32;
        value = warp_sum(value);
        turn ^= 1;
        if (lane == 0) words[turn][threadIdx.x / 32] = value;
        __syncthreads();
        return warp_sum(lane < kWarps ? words[turn][lane] : 0u);
    }
};

// Returns a threshold that takes all keys, if they are at most `most`, and else from `least` to `most` of them.
// `keys.each(f)` calls f(key) for every key of this thread, `keys.each_indexed(f)` f(key, index); indices are all
// different and have `index_bits` bits.
template <class Keys>
__device__ __forceinline__ Threshold find_threshold(const Keys& keys, unsigned least, unsigned most, int index_bits,
                                                    BlockSum& sum) {
    const auto count_from = [&](unsigned lowest) {
        unsigned own = 0;
        keys.each([&](unsigned key) { own += key >= lowest; });
        return sum(own);
    };
    if (count_from(1u) <= most) return Threshold{1u, 0u};
    Threshold found{0u, 0u};
    for (int bit = 31; bit >= kUnusedBits; --bit) {
        const unsigned higher = found.key | 1u << bit, count = count_from(higher);
        if (count < least) continue;
        found.key = higher;
        if (count <= most) return found;
    }
    found.bar = ~0u << index_bits;  // lets all equal keys through
    for (int bit = index_bits - 1; bit >= 0; --bit) {
        const Threshold higher{found.key, found.bar | 1u << bit};
        unsigned own = 0;
        keys.each_indexed([&](unsigned key, unsigned index) { own += higher.takes(key, index); });
        const unsigned count = sum(own);
        if (count < least) continue;
        found = higher;
        if (count <= most) break;
    }
    return found;
}

// The place of this thread's first item among those of the block, each thread bringing `own` items; in any order.
// `counter` is 0 before.
__device__ __forceinline__ int place_for(int own, int* counter) {
    const int lane = threadIdx.x % 32;
    const int until = inclusive_sum(own, lane);  // of this lane and those before it
    int first = 0;
    if (lane == 31) first = atomicAdd(counter, until);
    return __shfl_sync(0xffffffffu, first, 31) + until - own;
}
