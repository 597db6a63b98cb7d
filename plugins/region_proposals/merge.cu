// RegionProposals, fifth launch: the best kept boxes of all levels of an image (blockIdx.y), a thread for each of them.
//
// A box's row is its place in its own level and the number of those before it in every other, which a binary search in
// that level's falling scores finds; all searches go side by side. Equal scores follow by level.
//
// R50-FPN, 1000 of each of 5 levels, one image: 0.1 MB read, 16 KB written, by 40 blocks. Dependent: two loads, 10
// probes, a store.

// The first step of a search, a power of two: it and all smaller ones add up to CANDIDATES at least.
__device__ constexpr int first_step() {
    int step = 1;
    while (2 * step <= CANDIDATES) step *= 2;
    return step;
}

extern "C" __global__ void __launch_bounds__(THREADS)
region_proposals_merge(const float4* __restrict__ boxes, const float* __restrict__ scores,
                       const int* __restrict__ counts, float4* __restrict__ rois) {
    scores += size_t(blockIdx.y) * LEVELS * CANDIDATES;
    boxes += size_t(blockIdx.y) * LEVELS * CANDIDATES;
    rois += size_t(blockIdx.y) * PROPOSALS;
    int count_of[LEVELS], total = 0;
#pragma unroll
    for (int i = 0; i < LEVELS; ++i) {
        count_of[i] = counts[blockIdx.y * LEVELS + i];
        total += count_of[i];
    }

    const int at = blockIdx.x * THREADS + threadIdx.x, level = at / CANDIDATES, place = at % CANDIDATES;
    if (at >= total && at < PROPOSALS) rois[at] = make_float4(0.f, 0.f, -1.f, -1.f);
    if (level >= LEVELS || place >= counts[blockIdx.y * LEVELS + level]) return;

    const float score = scores[at];
    int before[LEVELS] = {};
    for (int step = first_step(); step > 0; step /= 2) {
#pragma unroll
        for (int i = 0; i < LEVELS; ++i) {
            const int next = before[i] + step;
            if (next > count_of[i]) continue;
            const float other = scores[i * CANDIDATES + next - 1];
            if (other > score || (other == score && i < level)) before[i] = next;
        }
    }
    int row = place;
#pragma unroll
    for (int i = 0; i < LEVELS; ++i) row += i == level ? 0 : before[i];
    if (row < PROPOSALS) rois[row] = boxes[at];
}
