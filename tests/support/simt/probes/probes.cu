// Small kernels that show what the shim does, and the faults that it must catch. FAULT chooses.

extern "C" __global__ void reverse_block(const int* __restrict__ values, int count, int* __restrict__ reversed) {
    __shared__ int block[64];
    __shared__ int never_written;
    (void)never_written;
    const int thread = threadIdx.x;
    block[thread] = values[blockIdx.x * count + thread];
#if FAULT != 1  // 1: the barrier is missing
    __syncthreads();
#endif
    reversed[blockIdx.x * count + thread] = block[count - 1 - thread];
#if FAULT == 2  // a write past the end
    if (blockIdx.x == gridDim.x - 1 && thread == 0) reversed[gridDim.x * count] = 7;
#elif FAULT == 3  // some threads wait for the block, the others for their warp
    if (thread < 5) __syncthreads(); else __syncwarp();
#elif FAULT == 4  // a vote that names lanes that have left
    if (thread >= 16) return;
    if (__ballot_sync(0xffffffffu, 1) == 0) reversed[0] = 0;
#elif FAULT == 5  // shared memory that nobody wrote
    reversed[blockIdx.x * count + thread] = never_written;
#elif FAULT == 6  // a write into an input
    const_cast<int*>(values)[0] = 123456;
#elif FAULT == 7  // a read past the end
    reversed[blockIdx.x * count + thread] = values[gridDim.x * count + 4];
#elif FAULT == 8  // half a warp votes, the other half shuffles
    if (thread % 32 < 16) __any_sync(0xffffffffu, 1); else __shfl_sync(0xffffffffu, 1, 0);
#elif FAULT == 9  // a shuffle from a lane that takes no part
    if (thread % 32 < 16) reversed[0] = __shfl_sync(0xffffu, thread, 20);
#elif FAULT == 10  // a mask without the lane itself
    if (thread < 16) __syncwarp(0xffu);
#elif FAULT == 11  // two warps wait at two barriers
    if (thread < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
#elif FAULT == 12  // undefined behaviour: an overflow
    reversed[blockIdx.x * count + thread] = count + 2147483647;
#elif FAULT == 13  // undefined behaviour: past the end of shared memory
    block[thread + 1] = 0;
#elif FAULT == 14  // a stack that overflows
    volatile char large[200000];
    for (int i = 199999; i >= 0; --i) large[i] = 1;
    reversed[0] = large[0];
#elif FAULT == 15  // a read before the start
    reversed[blockIdx.x * count + thread] = values[-1];
#elif FAULT == 16  // a barrier of the warp where one of the block is needed, after warps have gone in step
    __syncwarp();
    block[thread] = 1000 + thread;
    __syncwarp();
    reversed[blockIdx.x * count + thread] = block[count - 1 - thread];
#endif
}
