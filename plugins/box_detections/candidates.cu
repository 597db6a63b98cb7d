// BoxDetections, first launch: the softmax of each RoI as its greatest logit and sum of exponentials, and which scores are
// over the threshold, as bits.
//
// A block takes 32 RoIs of an image, a warp each. Votes turn the warps' words (bit: class) into words of a class (bit: RoI).
// 1,000 RoIs of 91 classes in float16: reads 0.2 MB, writes 20 KB, 4 MFLOP; steps: a load from memory, two passes over what
// the first level of cache holds, 10 shuffles, a barrier, 32 votes.
#include "cuda/element.cuh"

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kChunks = 32;  // words of 32 classes that a block turns at a time, one a warp
constexpr int kAtOnce = 4;   // loads of a lane that do not wait for each other
static_assert(kChunks % kAtOnce == 0, "no word is behind the last");

// Calls visit(class, logit) in a warp together, a class a lane; behind the last the logit is -inf.
template <class Visit>
__device__ __forceinline__ void each_logit(const Element* __restrict__ logits, int first, int end, Visit visit) {
#pragma unroll 1  // 128 classes take one turn, and shorter code is there sooner
    for (int start = first; start < end; start += 32 * kAtOnce) {
        const int c = start + threadIdx.x % 32;
        float values[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
            values[i] = c + 32 * i < end ? to_float(logits[c + 32 * i]) : -__uint_as_float(0x7f800000u);
        }
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) visit(c + 32 * i, values[i]);
    }
}

// A division is only made where the product cannot tell: the margin covers the rounding of both. False with a NaN.
__device__ __forceinline__ bool is_over_threshold(float exponential, float sum) {
    constexpr float kSurelyBelow = SCORE_THRESHOLD * (1.f - 1.f / 1048576.f);
    return exponential >= kSurelyBelow * sum && exponential / sum > SCORE_THRESHOLD;
}

extern "C" __global__ void __launch_bounds__(1024, 1)
box_detections_candidates(const float4* __restrict__ rois, const Element* __restrict__ class_logits, int rois_per_image,
                          int classes, float2* __restrict__ statistics, unsigned* __restrict__ candidates) {
    __shared__ unsigned words[kChunks][32];

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int roi = 32 * blockIdx.x + warp;
    const bool exists = roi < rois_per_image;
    const size_t row = size_t(blockIdx.y) * rois_per_image + (exists ? roi : 0);
    const Element* const logits = class_logits + row * classes;
    const float4 corners = rois[row];
    const bool present = exists && corners.z >= corners.x;

    float maximum = -__uint_as_float(0x7f800000u);  // fmaxf passes over a NaN, the sum does not
    each_logit(logits, 0, classes, [&](int, float logit) { maximum = fmaxf(maximum, logit); });
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) maximum = fmaxf(maximum, __shfl_xor_sync(kAllLanes, maximum, lanes));
    float sum = 0.f;
    each_logit(logits, 0, classes, [&](int, float logit) { sum += expf(logit - maximum); });
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(kAllLanes, sum, lanes);
    if (exists && lane == 0) statistics[row] = make_float2(maximum, sum);

    candidates += size_t(blockIdx.y) * (classes - 1) * gridDim.x + blockIdx.x;
    for (int first = 0; first < classes; first += 32 * kChunks) {
        const int end = min(classes, first + 32 * kChunks);
        if (first > 0) __syncthreads();
        each_logit(logits, first, end, [&](int c, float logit) {
            const unsigned word = __ballot_sync(kAllLanes, present && is_over_threshold(expf(logit - maximum), sum));
            if (lane == 0) words[(c - first) / 32][warp] = word;
        });
        __syncthreads();
        if (first + 32 * warp >= end) continue;
        const unsigned of_roi = words[warp][lane];
        unsigned of_class = 0;
#pragma unroll
        for (int bit = 0; bit < 32; ++bit) {
            const unsigned word = __ballot_sync(kAllLanes, of_roi >> bit & 1u);
            if (lane == bit) of_class = word;
        }
        const int c = first + 32 * warp + lane;
        if (c > 0 && c < classes) candidates[size_t(c - 1) * gridDim.x] = of_class;
    }
}
