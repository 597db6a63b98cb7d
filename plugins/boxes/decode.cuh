// Decoding and clipping of boxes, float32, in the order of operations of boxes/reference.py. BOX_WEIGHTS, MAX_LOG_SCALE
// and MIN_SIZE are macros of the including source.
#pragma once

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
