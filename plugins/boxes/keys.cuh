// Sort keys of candidates: the largest value first, equal ones by rising index. THREADS is a macro of the including
// source.
#pragma once

using Key = unsigned long long;

// A float's bits, so that unsigned integers rise as floats do; NaN and -inf are 0, below every other. -0.0 equals 0.0.
__device__ __forceinline__ unsigned ordered(float value) {
    if (!(value > -__uint_as_float(0x7f800000u))) return 0u;
    const unsigned bits = value == 0.f ? 0u : __float_as_uint(value);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Keys rise as `rank` falls, and as indices rise among equal ones.
__device__ __forceinline__ Key key_of(unsigned rank, unsigned index) { return static_cast<Key>(~rank) << 32 | index; }

// Bitonic sort of keys[0, count), count a power of two, rising. A warp owns runs of 64 keys, so that steps of up to 32
// need no barrier of the block.
__device__ __forceinline__ void sort(Key* keys, int count) {
    for (int run = 2; run <= count; run *= 2) {
        for (int step = run / 2; step > 0; step /= 2) {
            if (step > 32) __syncthreads();
            for (int pair = threadIdx.x; pair < count / 2; pair += THREADS) {
                const int low = 2 * pair - (pair & (step - 1)), high = low + step;
                const Key a = keys[low], b = keys[high];
                if ((a > b) == ((low & run) == 0)) {
                    keys[low] = b;
                    keys[high] = a;
                }
            }
            if (step > 32) {
                __syncthreads();
            } else {
                __syncwarp();
            }
        }
    }
    __syncthreads();
}

// The same for a COUNT known to the compiler, of 64 at least: a thread holds a few neighbours in registers and compares
// them among themselves, then with those of its warp, and only over longer steps through shared memory.
template <int COUNT>
__device__ __forceinline__ void sort(Key* keys) {
    constexpr int kHeld = COUNT < 128 ? 2 : COUNT / THREADS > 4 ? COUNT / THREADS : 4;
    constexpr int kThreads = COUNT / kHeld;  // that hold keys
    static_assert(kThreads % 32 == 0 && kThreads <= THREADS, "whole warps");
    const int first = threadIdx.x * kHeld;
    const bool holds = first < COUNT;
    Key held[kHeld];
#pragma unroll
    for (int i = 0; i < kHeld; ++i) held[i] = holds ? keys[first + i] : 0;
    for (int run = 2; run <= COUNT; run *= 2) {
        int step = run / 2;
        for (; step >= 32 * kHeld; step /= 2) {
            const bool keep_lower = ((first & step) == 0) == ((first & run) == 0);
            __syncthreads();
#pragma unroll
            for (int i = 0; i < kHeld; ++i) {
                if (holds) keys[i * kThreads + threadIdx.x] = held[i];
            }
            __syncthreads();
#pragma unroll
            for (int i = 0; i < kHeld; ++i) {
                const Key other = holds ? keys[i * kThreads + (threadIdx.x ^ step / kHeld)] : 0;
                if ((held[i] > other) == keep_lower) held[i] = other;
            }
        }
        if (!holds) continue;
        for (; step >= kHeld; step /= 2) {
            const bool keep_lower = ((first & step) == 0) == ((first & run) == 0);
#pragma unroll
            for (int i = 0; i < kHeld; ++i) {
                const Key other = __shfl_xor_sync(0xffffffffu, held[i], step / kHeld);
                if ((held[i] > other) == keep_lower) held[i] = other;
            }
        }
#pragma unroll
        for (int inner = kHeld / 2; inner > 0; inner /= 2) {
            if (inner > step) continue;
#pragma unroll
            for (int i = 0; i < kHeld; ++i) {
                if (i & inner) continue;
                const Key a = held[i], b = held[i + inner];
                if ((a > b) == (((first + i) & run) == 0)) {
                    held[i] = b;
                    held[i + inner] = a;
                }
            }
        }
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
        if (holds) keys[first + i] = held[i];
    }
    __syncthreads();
}
