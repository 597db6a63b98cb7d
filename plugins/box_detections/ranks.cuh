// The order of a few keys.
#pragma once
#include "boxes/keys.cuh"
#include "boxes/votes.cuh"

// The number of keys below a key. For a few keys this takes less time than the steps of a sort, which wait for each other.
__device__ __forceinline__ int rank_of(Key key, const Key* keys, int count) {
    int rank = 0;
#pragma unroll 8
    for (int i = 0; i < count; ++i) rank += keys[i] < key;
    return rank;
}

// Sorts keys[0, count), of which there is room for a power of two, rising.
__device__ __forceinline__ void sort_any(Key* keys, int count) {
    if (count <= 128) {
        const bool has = threadIdx.x < count;
        const Key key = has ? keys[threadIdx.x] : 0;
        const int rank = has ? rank_of(key, keys, count) : 0;
        __syncthreads();
        if (has) keys[rank] = key;
        __syncthreads();
        return;
    }
    int sorted = 1024;
    while (sorted < count) sorted *= 2;
    for (int i = count + threadIdx.x; i < sorted; i += THREADS) keys[i] = ~Key(0);
    __syncthreads();
    if (sorted == 1024) {
        sort<1024>(keys);
    } else {
        sort(keys, sorted);
    }
}
