// GroupedNMS, first launch: rank the present boxes of a group, then write who overlaps whom as bits.
//
// blockIdx.x is the group; the blocks in y share its tiles of 32 ranks. Each of them sorts for itself, which costs less
// than a launch of its own would. Word (tile, row) holds in bit k whether the box of rank 32 tile + k suppresses the box
// of rank `row`, were it kept; rows before the tile do not exist, so the words of tile t begin at
// 32 (t T - t (t - 1) / 2), T = ceil(boxes / 32).

using Key = unsigned long long;

// Keys rise as scores fall, and as indices rise among equal scores. -0.0 equals 0.0.
__device__ __forceinline__ Key key_of(float score, int index) {
    const unsigned bits = score == 0.f ? 0u : __float_as_uint(score);
    return static_cast<Key>(~bits) << 32 | static_cast<unsigned>(index);
}

// Bitonic sort of keys[0, count), count a power of two. A warp owns runs of 64 keys, so that steps of up to 32 need no
// barrier of the block.
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

extern "C" __global__ void __launch_bounds__(THREADS)
grouped_nms_mask(const float4* __restrict__ boxes, const float* __restrict__ scores, int boxes_per_group,
                 int* __restrict__ order, unsigned* __restrict__ overlaps) {
    __shared__ Key keys[MAX_BOXES];
    __shared__ int counter;
    __shared__ float4 tile_boxes[32];
    __shared__ float tile_areas[32];

    const int lane = threadIdx.x % 32;
    boxes += size_t(blockIdx.x) * boxes_per_group;
    scores += size_t(blockIdx.x) * boxes_per_group;
    order += size_t(blockIdx.x) * boxes_per_group;

    if (threadIdx.x == 0) counter = 0;
    __syncthreads();
    for (int start = 0; start < boxes_per_group; start += THREADS) {
        const int index = start + threadIdx.x;
        const float score = index < boxes_per_group ? scores[index] : -1.f;
        const bool present = score >= 0.f;
        const unsigned voters = __ballot_sync(0xffffffffu, present);
        int place = 0;
        if (lane == 0) place = atomicAdd(&counter, __popc(voters));
        place = __shfl_sync(0xffffffffu, place, 0) + __popc(voters & ((1u << lane) - 1u));
        if (present) keys[place] = key_of(score, index);
    }
    __syncthreads();
    const int present = counter;
    const int tiles = (present + 31) / 32;
    if (blockIdx.y > 0 && blockIdx.y >= tiles) return;

    int sorted = 2;
    while (sorted < present) sorted *= 2;
    for (int i = present + threadIdx.x; i < sorted; i += THREADS) keys[i] = ~Key(0);
    __syncthreads();
    sort(keys, sorted);

    if (blockIdx.y == 0) {
        for (int rank = threadIdx.x; rank < boxes_per_group; rank += THREADS) {
            order[rank] = rank < present ? static_cast<int>(keys[rank] & 0xffffffffu) : -1;
        }
    }

    const int all_tiles = (boxes_per_group + 31) / 32;
    overlaps += size_t(blockIdx.x) * (16 * all_tiles * (all_tiles + 1));
    for (int tile = blockIdx.y; tile < tiles; tile += gridDim.y) {
        __syncthreads();
        if (threadIdx.x < 32) {
            const int rank = 32 * tile + lane;
            const float4 box = rank < present ? boxes[keys[rank] & 0xffffffffu] : make_float4(0.f, 0.f, 0.f, 0.f);
            tile_boxes[lane] = box;
            tile_areas[lane] = area_of(box);
        }
        __syncthreads();
        unsigned* const words = overlaps + 32 * (tile * all_tiles - tile * (tile - 1) / 2);
        for (int row = threadIdx.x; 32 * tile + row < present; row += THREADS) {
            const float4 box = boxes[keys[32 * tile + row] & 0xffffffffu];
            const float area = area_of(box);
            unsigned word = 0;
#pragma unroll 8
            for (int k = 0; k < 32; ++k) word |= static_cast<unsigned>(overlap(tile_boxes[k], tile_areas[k], box, area)) << k;
            words[row] = row < 32 ? word & ((1u << row) - 1u) : word;
        }
    }
}
