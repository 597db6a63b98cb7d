// Box arithmetic, sorting and overlaps of RegionProposals and BoxDetections; float32, in the order of operations of
// boxes/reference.py. BOX_WEIGHTS, MAX_LOG_SCALE, IOU_THRESHOLD, MIN_SIZE and THREADS are macros of the including source.
#pragma once
#include "cuda/element.cuh"

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

__device__ __forceinline__ float area_of(const float4 box) { return (box.z - box.x) * (box.w - box.y); }

// Whether IoU > IOU_THRESHOLD, decided exactly as torchvision does by a float32 division, which is only made where the
// product cannot tell: the margin covers the rounding of both.
__device__ __forceinline__ bool overlap(const float4 a, float area_a, const float4 b, float area_b) {
    constexpr float kSurelyBelow = IOU_THRESHOLD * (1.f - 1.f / 1048576.f);
    const float width = fmaxf(fminf(a.z, b.z) - fmaxf(a.x, b.x), 0.f);
    const float height = fmaxf(fminf(a.w, b.w) - fmaxf(a.y, b.y), 0.f);
    const float inter = width * height;
    const float both = area_a + area_b - inter;
    return inter > 0.f && inter >= kSurelyBelow * both && inter / both > IOU_THRESHOLD;
}

// The box of four deltas (dx, dy, dw, dh) relative to an anchor or RoI.
__device__ __forceinline__ float4 decode(const float (&deltas)[4], const float4 anchor) {
    constexpr float kWeights[] = {BOX_WEIGHTS};
    const float width = anchor.z - anchor.x, height = anchor.w - anchor.y;
    const float center_x = anchor.x + 0.5f * width, center_y = anchor.y + 0.5f * height;
    const float new_x = deltas[0] / kWeights[0] * width + center_x, new_y = deltas[1] / kWeights[1] * height + center_y;
    float log_width = deltas[2] / kWeights[2], log_height = deltas[3] / kWeights[3];
    if (log_width > MAX_LOG_SCALE) log_width = MAX_LOG_SCALE;  // a NaN stays one
    if (log_height > MAX_LOG_SCALE) log_height = MAX_LOG_SCALE;
    const float half_width = 0.5f * (expf(log_width) * width), half_height = 0.5f * (expf(log_height) * height);
    return make_float4(new_x - half_width, new_y - half_height, new_x + half_width, new_y + half_height);
}

__device__ __forceinline__ float clip_to(float value, float limit) {
    if (value < 0.f) value = 0.f;
    return value > limit ? limit : value;  // a NaN stays one
}

// Clips a box to an image (height, width), and tells whether both sides are at least MIN_SIZE; not so with a NaN.
__device__ __forceinline__ bool clip(float4& box, float height, float width) {
    box = make_float4(clip_to(box.x, width), clip_to(box.y, height), clip_to(box.z, width), clip_to(box.w, height));
    return box.z - box.x >= MIN_SIZE && box.w - box.y >= MIN_SIZE;
}
