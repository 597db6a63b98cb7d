// Where overlaps lie in memory: words of 32 bits for a tile of 32 candidates, word (tile, row) holding in bit k whether
// candidate 32 tile + k overlaps candidate `row`. Rows before the tile do not exist, so tile t begins at
// 32 (t T - t (t - 1) / 2), T tiles in all.
#pragma once

constexpr int kTiles = (CANDIDATES + 31) / 32;
constexpr int kWords = 16 * kTiles * (kTiles + 1);

__device__ __forceinline__ int word_at(int tile, int row) {
    return 32 * (tile * kTiles - tile * (tile - 1) / 2 - tile) + row;
}
