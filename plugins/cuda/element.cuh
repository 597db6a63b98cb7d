// ELEMENT is the type of feature maps, 0: float32, 1: float16, 2: bfloat16; arithmetic is float32. No header of the CUDA
// toolkit is included, so that the compiler library alone builds every kernel.
#pragma once

#if ELEMENT == 0
using Element = float;
#else
using Element = unsigned short;  // the bits
#endif

constexpr int kVectorBytes = 16;  // one load of a lane
constexpr int kPerVector = kVectorBytes / int(sizeof(Element));

__device__ __forceinline__ float half_to_float(unsigned short bits) {
#ifdef FRCNN_HOST
    return __half_bits_to_float(bits);
#else
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
#endif
}

__device__ __forceinline__ unsigned short float_to_half(float value) {
#ifdef FRCNN_HOST
    return __float_to_half_bits(value);
#else
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
#endif
}

// Round to nearest even by integers, so that every architecture does the same; a NaN stays one.
__device__ __forceinline__ unsigned short float_to_bfloat16(float value) {
    const unsigned bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<unsigned short>((bits >> 16) | 0x40u);
    return static_cast<unsigned short>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

__device__ __forceinline__ float to_float(Element value) {
#if ELEMENT == 0
    return value;
#elif ELEMENT == 1
    return half_to_float(value);
#else
    return __uint_as_float(static_cast<unsigned>(value) << 16);
#endif
}

__device__ __forceinline__ Element from_float(float value) {
#if ELEMENT == 0
    return value;
#elif ELEMENT == 1
    return float_to_half(value);
#else
    return float_to_bfloat16(value);
#endif
}

// WIDTH neighbours in memory, read or written at once.
template <int WIDTH>
__device__ __forceinline__ void load(const Element* __restrict__ from, float (&values)[WIDTH]) {
    static_assert(WIDTH == 1 || WIDTH == kPerVector, "an element, or as many as one load holds");
    if constexpr (WIDTH == 1) {
        values[0] = to_float(*from);
    } else {
        const uint4 raw = *reinterpret_cast<const uint4*>(from);
        const unsigned words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#if ELEMENT == 0
            values[i] = __uint_as_float(words[i]);
#else
            values[2 * i] = to_float(static_cast<Element>(words[i] & 0xffffu));
            values[2 * i + 1] = to_float(static_cast<Element>(words[i] >> 16));
#endif
        }
    }
}

template <int WIDTH>
__device__ __forceinline__ void store(Element* to, const float (&values)[WIDTH]) {
    static_assert(WIDTH == 1 || WIDTH == kPerVector, "an element, or as many as one store holds");
    if constexpr (WIDTH == 1) {
        *to = from_float(values[0]);
    } else {
        unsigned words[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#if ELEMENT == 0
            words[i] = __float_as_uint(values[i]);
#else
            words[i] = from_float(values[2 * i]) | static_cast<unsigned>(from_float(values[2 * i + 1])) << 16;
#endif
        }
        *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
    }
}
