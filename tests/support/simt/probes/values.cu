// Vector types and functions of values alone: one number each, in an order that the test knows.

extern "C" __global__ void values(const float* __restrict__ numbers, int count, int* __restrict__ found) {
    const uint4 vector = make_uint4(1, 2, 3, 4);
    const int all[] = {
        int(sizeof(ushort2)), int(alignof(ushort2)), int(sizeof(ushort4)), int(alignof(ushort4)),
        int(sizeof(int2)),    int(alignof(int2)),    int(sizeof(uint2)),   int(alignof(uint2)),
        int(sizeof(float2)),  int(alignof(float2)),  int(sizeof(int4)),    int(alignof(int4)),
        int(sizeof(uint4)),   int(alignof(uint4)),   int(sizeof(float4)),  int(alignof(float4)),
        int(vector.x * 1000 + vector.y * 100 + vector.z * 10 + vector.w),
        __popc(0xf0f0u), __ffs(0), __ffs(8), __clz(0), __clz(1), __clz(-1),
        __float_as_int(1.f), int(__float_as_uint(-2.f) >> 24), int(__int_as_float(0x40400000)), int(__uint_as_float(0x40800000u)),
        __float_as_int(__fdiv_rn(numbers[0], numbers[1])), __float_as_int(__fsqrt_rn(numbers[1])),
        // rounded twice; a fused multiply-add would not give 0
        __float_as_int(__fsub_rn(__fmul_rn(numbers[2], numbers[2]), __ldg(numbers + 3))),
        __float_as_int(numbers[2] * numbers[2] - numbers[3]),
        isfinite(__fadd_rn(numbers[4], numbers[4])), min(3, 2) * 10 + max(3, 2)};
    for (int i = threadIdx.x; i < count; i += 32) found[i] = all[i];
}
