// The part of CUDA C++ that computes with values alone: vector types, bits, rounding, halves.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

using std::isfinite;
using std::max;
using std::min;

#define VECTOR_OF_2(Name, Scalar)                 \
    struct alignas(2 * sizeof(Scalar)) Name {     \
        Scalar x, y;                              \
    };                                            \
    inline Name make_##Name(Scalar x, Scalar y) { return {x, y}; }
#define VECTOR_OF_4(Name, Scalar)                 \
    struct alignas(4 * sizeof(Scalar)) Name {     \
        Scalar x, y, z, w;                        \
    };                                            \
    inline Name make_##Name(Scalar x, Scalar y, Scalar z, Scalar w) { return {x, y, z, w}; }
VECTOR_OF_2(int2, int)
VECTOR_OF_2(uint2, unsigned)
VECTOR_OF_2(float2, float)
VECTOR_OF_2(ushort2, unsigned short)
VECTOR_OF_4(int4, int)
VECTOR_OF_4(uint4, unsigned)
VECTOR_OF_4(float4, float)
VECTOR_OF_4(ushort4, unsigned short)

template <class To, class From>
inline To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "as many bits");
    To to;
    std::memcpy(&to, &from, sizeof(To));
    return to;
}
inline float __uint_as_float(unsigned bits) { return same_bits<float>(bits); }
inline float __int_as_float(int bits) { return same_bits<float>(bits); }
inline unsigned __float_as_uint(float value) { return same_bits<unsigned>(value); }
inline int __float_as_int(float value) { return same_bits<int>(value); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(unsigned(bits)); }
template <class T>
inline T __ldg(const T* from) {
    return *from;
}

// The library is compiled without fused multiply-add, so plain operators round as these promise.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }

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
