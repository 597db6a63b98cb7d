// Just enough of CUDA C++ to compile our kernels for the host, one thread of a block per fiber; see simt.cpp.
//
// __shared__ arrays must be declared in the kernel function itself: a compiler places those of templates and inline
// functions elsewhere, where they cannot be filled with garbage before each block.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define FRCNN_HOST 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __shared__ static __attribute__((section("simt_shared")))

struct Dim3 {
    unsigned x, y, z;
};
extern Dim3 threadIdx, blockIdx, blockDim, gridDim;
using std::isfinite;
using std::max;
using std::min;

struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

template <class To, class From>
inline To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "as many bits");
    To to;
    std::memcpy(&to, &from, sizeof(To));
    return to;
}
inline float __uint_as_float(unsigned bits) { return same_bits<float>(bits); }
inline unsigned __float_as_uint(float value) { return same_bits<unsigned>(value); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

inline float __half_bits_to_float(unsigned short bits) {
    const unsigned sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31u, fraction = bits & 1023u;
    if (exponent == 0) {
        const float magnitude = std::ldexp(float(fraction), -24);
        return sign ? -magnitude : magnitude;
    }
    const unsigned wide = exponent == 31 ? 255u : exponent + 112u;
    return __uint_as_float(sign | wide << 23 | fraction << 13);
}

// Rounds to nearest, ties to even.
inline unsigned short __float_to_half_bits(float value) {
    const unsigned bits = __float_as_uint(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<unsigned short>(sign | 0x7fffu);
    if (magnitude >= 0x477ff000u) return static_cast<unsigned short>(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {  // below the normal halves: a multiple of 2^-24
        const float units = std::nearbyint(std::ldexp(__uint_as_float(magnitude), 24));
        return static_cast<unsigned short>(sign | static_cast<unsigned>(units));
    }
    const unsigned rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
    return static_cast<unsigned short>(sign | ((rounded >> 13) - 0x1c000u));
}

void __syncthreads();
int __syncthreads_count(int predicate);
void __syncwarp(unsigned mask = 0xffffffffu);
unsigned __ballot_sync(unsigned mask, int predicate);
int __shfl_sync(unsigned mask, int value, int lane);
// Only ever one fiber runs, so reading and writing back is atomic.
inline int atomicAdd(int* address, int value) {
    const int before = *address;
    *address += value;
    return before;
}
