// What every collective gives, one row of `found` each, in an order that the test knows; CASE chooses.

extern "C" __global__ void collectives(const int* __restrict__ values, int threads, long long* __restrict__ found) {
    const unsigned everyone = 0xffffffffu;
    const int thread = threadIdx.x + blockDim.x * threadIdx.y, lane = thread % 32;
    const int value = values[thread];
    const bool yes = value % 3 == 0;
    int row = 0;
#define FOUND(what) found[(row++) * threads + thread] = (what)
#if CASE == 0  // of a warp
    FOUND(__ballot_sync(everyone, yes));
    FOUND(__any_sync(everyone, value == 70));
    FOUND(__all_sync(everyone, value < 90));
    FOUND(__shfl_sync(everyone, value, lane * 5));
    FOUND(__shfl_sync(everyone, value, 3, 8));
    FOUND(__shfl_up_sync(everyone, value, 2));
    FOUND(__shfl_up_sync(everyone, value, 3, 16));
    FOUND(__shfl_down_sync(everyone, value, 2));
    FOUND(__shfl_down_sync(everyone, value, 3, 16));
    FOUND(__shfl_xor_sync(everyone, value, 5));
    FOUND(__shfl_xor_sync(everyone, value, 12, 8));
    FOUND(__shfl_sync(everyone, (1ll << 40) + value, 31));
    FOUND(__shfl_xor_sync(everyone, value + 0.5f, 1) * 2.f);
    if (lane < 8) {
        FOUND(__ballot_sync(0xffu, yes));
    } else {
        FOUND(__ballot_sync(0xffffff00u, yes));
    }
#elif CASE == 1  // of the block
    FOUND(__syncthreads_count(yes));
    FOUND(__syncthreads_or(value == 70));
    FOUND(__syncthreads_or(value == -1));
    FOUND(__syncthreads_and(value < 1000));
    FOUND(__syncthreads_and(value < 90));
#elif CASE == 2  // threads that have passed more barriers than others, and threads that leave after they voted
    if (lane < 16) __syncwarp(0xffffu);
    FOUND(__ballot_sync(everyone, yes));
    if (thread < 32) __syncwarp();
    FOUND(__syncthreads_count(yes));
    FOUND(__syncthreads_count(1));
    if (thread >= 32) return;
    FOUND(__syncthreads_count(1));
#endif
}
