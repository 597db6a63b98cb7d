// Just enough of CUDA C++ to compile our kernels for the host, one thread of a block per fiber; see simt.cpp.
//
// __shared__ arrays must be declared in the kernel function itself: a compiler places those of templates and inline
// functions elsewhere, where they cannot be filled with garbage before each block.
#pragma once
#include "values.h"

#define FRCNN_HOST 1
#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __align__(bytes) alignas(bytes)
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __shared__ static __attribute__((section("simt_shared")))

struct Dim3 {
    unsigned x, y, z;
};
extern Dim3 threadIdx, blockIdx, blockDim, gridDim;

// Where threads wait for each other, and what they bring.
struct Meeting {
    enum Kind { barrier, vote, shuffle } kind;
    const char* name;
    bool of_block;               // else of the lanes in `mask`
    unsigned mask;
    unsigned long long brought;  // a predicate, or the value that others may read
    int source;                  // the lane that a shuffle reads
    int line;
};

// Waits for the others. Returns nothing of use for a barrier, the value of the source for a shuffle, for a vote of lanes
// one bit per lane, for a vote of the block how many voted yes.
unsigned long long meet(const Meeting& meeting);

inline void __syncthreads(int line = __builtin_LINE()) {
    meet({Meeting::barrier, "__syncthreads", true, 0, 0, 0, line});
}
inline int __syncthreads_count(int predicate, int line = __builtin_LINE()) {
    return int(meet({Meeting::vote, "__syncthreads_count", true, 0, predicate != 0, 0, line}));
}
inline int __syncthreads_or(int predicate, int line = __builtin_LINE()) {
    return meet({Meeting::vote, "__syncthreads_or", true, 0, predicate != 0, 0, line}) != 0;
}
inline int __syncthreads_and(int predicate, int line = __builtin_LINE()) {
    return meet({Meeting::vote, "__syncthreads_and", true, 0, predicate == 0, 0, line}) == 0;
}

inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
    meet({Meeting::barrier, "__syncwarp", false, mask, 0, 0, line});
}
inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return unsigned(meet({Meeting::vote, "__ballot_sync", false, mask, predicate != 0, 0, line}));
}
inline int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return meet({Meeting::vote, "__any_sync", false, mask, predicate != 0, 0, line}) != 0;
}
inline int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return meet({Meeting::vote, "__all_sync", false, mask, predicate == 0, 0, line}) == 0;
}

inline int lane_of_thread() {
    return int((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32);
}

template <class T>
T shuffle(const char* name, unsigned mask, T value, int source, int line) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle moves 4 or 8 bytes");
    unsigned long long bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    bits = meet({Meeting::shuffle, name, false, mask, bits, source, line});
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
// A lane whose source would be outside its group of `width` lanes reads itself.
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, int line = __builtin_LINE()) {
    const int first = lane_of_thread() & ~(width - 1);
    return shuffle("__shfl_sync", mask, value, first + (lane & (width - 1)), line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, int line = __builtin_LINE()) {
    const int self = lane_of_thread(), inside = self & (width - 1);
    return shuffle("__shfl_up_sync", mask, value, int(delta) <= inside ? self - int(delta) : self, line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, int line = __builtin_LINE()) {
    const int self = lane_of_thread(), inside = self & (width - 1);
    return shuffle("__shfl_down_sync", mask, value, inside + int(delta) < width ? self + int(delta) : self, line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, int line = __builtin_LINE()) {
    const int self = lane_of_thread(), last = self | (width - 1), source = self ^ lanes;
    return shuffle("__shfl_xor_sync", mask, value, source <= last ? source : self, line);
}

// Only ever one fiber runs, so reading and writing back is atomic.
inline int atomicAdd(int* address, int value) {
    const int before = *address;
    *address += value;
    return before;
}
