// Overlaps of boxes, float32, in the order of operations of torchvision. IOU_THRESHOLD is a macro of the including
// source.
#pragma once

__device__ __forceinline__ float area_of(const float4 box) { return (box.z - box.x) * (box.w - box.y); }

// 2 to the exponent of a float of 0 to 1.
__device__ constexpr float binade_of(float value) {
    float power = 1.f;
    while (power > value) power *= 0.5f;
    return power;
}

// Whether IoU > IOU_THRESHOLD, decided exactly as torchvision does by a float32 division, without dividing.
//
// The rounded quotient is above the threshold T if inter / both > T + u, u half the distance to the next float, or
// equal to it where T is odd, as ties go to even. So inter - T both is compared with u both. The latter is exact, and
// so is the former wherever the two are near: a multiple of the product of the last places of T and `both`, and below
// 2^24 of them. A power of two beside both, which changes no quotient, makes every such product a float, with no branch
// that would keep the comparisons of a loop from running side by side. For tiny thresholds the division is made.
__device__ __forceinline__ bool overlap(const float4 a, float area_a, const float4 b, float area_b) {
    const float width = fmaxf(fminf(a.z, b.z) - fmaxf(a.x, b.x), 0.f);
    const float height = fmaxf(fminf(a.w, b.w) - fmaxf(a.y, b.y), 0.f);
    const float inter = width * height;
    const float both = area_a + area_b - inter;
    constexpr bool kTiny = IOU_THRESHOLD < 1.f / 1048576.f;
    if (kTiny) return inter > 0.f && inter / both > IOU_THRESHOLD;
    constexpr float kBinade = binade_of(kTiny ? 1.f : IOU_THRESHOLD), kHalfStep = kBinade / 16777216.f;
    constexpr bool kOdd = static_cast<unsigned>(IOU_THRESHOLD / kBinade * 8388608.f) % 2u == 1u;
    const float scale = both >= 0x1p-80f ? 1.f : 0x1p+100f;
    const float excess = fmaf(-IOU_THRESHOLD, both * scale, inter * scale), bar = kHalfStep * (both * scale);
    return (inter > 0.f) & !(both < 0.f) & (kOdd ? excess >= bar : excess > bar);
}
