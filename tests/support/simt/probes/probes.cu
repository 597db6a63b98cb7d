// Small kernels that show what the shim does, and the faults that it must catch. FAULT chooses.

extern "C" __global__ void reverse_block(const int* __restrict__ values, int count, int* __restrict__ reversed) {
    __shared__ int block[64];
    __shared__ int never_written;
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
#elif FAULT == 7  // votes, shuffles and counts, against what CUDA says of them
    const unsigned odd = __ballot_sync(0xffffffffu, thread % 2);
    const int from_three = __shfl_sync(0xffffffffu, thread, 3);
    const int small = __syncthreads_count(thread < 10);
    reversed[blockIdx.x * count + thread] = odd == 0xaaaaaaaau ? 1000 * small + from_three : -1;
#elif FAULT == 8  // a read past the end
    reversed[blockIdx.x * count + thread] = values[gridDim.x * count + 4];
#endif
}
