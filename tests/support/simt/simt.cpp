// Runs a kernel on the CPU. The threads of a block are fibers on one thread of the process; blocks run one by one.
//
// A fiber runs until it waits at a barrier of its warp or of its block, or ends. When nobody can go on, the block either
// waits at one barrier as a whole, or hangs, which is reported. The order in which fibers and blocks run is chosen by
// `schedule` (0 forward, 1 reverse, n > 1 shuffled by seed n): code that lacks a barrier gives other results in another
// order. Shared memory is garbage at the start of each block.
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include <ucontext.h>

Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace {
constexpr int kWarp = 32;
constexpr size_t kStackBytes = 96 * 1024;

enum class State { ready, at_warp, at_block, done };

struct Fiber {
    std::unique_ptr<char[]> stack{new char[kStackBytes]};
    jmp_buf at;
    bool started;
    State state;
    unsigned mask;       // of the warp barrier it waits at
    unsigned waits;      // barriers passed: collectives use two slots in turn
    long long slots[2];  // what it brings to a collective
};

std::vector<Fiber> fibers;
int running;
jmp_buf scheduler;
void (*kernel)();
char failure[256];

__attribute__((section("simt_shared"), used)) char first_shared_byte;
extern "C" char __start_simt_shared[], __stop_simt_shared[];

// Leaves the running fiber until the scheduler returns to it.
void wait(State state, unsigned mask = 0) {
    Fiber& me = fibers[running];
    me.state = state;
    me.mask = mask;
    ++me.waits;
    if (_setjmp(me.at) == 0) _longjmp(scheduler, 1);
}

void begin() {
    kernel();
    fibers[running].state = State::done;
    _longjmp(scheduler, 1);
}

void resume(int thread) {
    Fiber& fiber = fibers[thread];
    running = thread;
    const unsigned n = thread;
    threadIdx = {n % blockDim.x, n / blockDim.x % blockDim.y, n / (blockDim.x * blockDim.y)};
    if (_setjmp(scheduler) != 0) return;
    if (fiber.started) _longjmp(fiber.at, 1);
    fiber.started = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = fiber.stack.get();
    context.uc_stack.ss_size = kStackBytes;
    context.uc_link = nullptr;
    makecontext(&context, begin, 0);
    setcontext(&context);
}

// Lets the lanes of a warp go on whose partners have all arrived.
bool release_warp(int first, int threads) {
    bool released = false;
    for (int i = first; i < std::min(first + kWarp, threads); ++i) {
        if (fibers[i].state != State::at_warp) continue;
        const unsigned mask = fibers[i].mask;
        bool complete = true;
        for (int lane = 0; lane < kWarp; ++lane) {
            if (!(mask >> lane & 1u)) continue;
            const bool there = first + lane < threads;
            if (!there || fibers[first + lane].state == State::done) {
                std::snprintf(failure, sizeof failure, "a warp collective of thread %d names lane %d, which is not there", i, lane);
                return false;
            }
            complete = complete && fibers[first + lane].state == State::at_warp && fibers[first + lane].mask == mask;
        }
        if (!complete) continue;
        for (int lane = 0; lane < kWarp; ++lane) {
            if (mask >> lane & 1u) fibers[first + lane].state = State::ready;
        }
        released = true;
    }
    return released;
}

bool release_block(int threads) {
    bool any = false;
    for (int i = 0; i < threads; ++i) {
        if (fibers[i].state == State::at_warp) {
            std::snprintf(failure, sizeof failure, "the block hangs: thread %d waits for its warp, others for the block", i);
            return false;
        }
        any = any || fibers[i].state == State::at_block;
    }
    for (int i = 0; i < threads; ++i) {
        if (fibers[i].state == State::at_block) fibers[i].state = State::ready;
    }
    return any;
}

void run_block(const std::vector<int>& order) {
    const int threads = int(order.size());
    std::memset(__start_simt_shared, 0xCD, __stop_simt_shared - __start_simt_shared);
    for (int i = 0; i < threads; ++i) {
        fibers[i].started = false;
        fibers[i].state = State::ready;
        fibers[i].waits = 0;
    }
    while (true) {
        bool progress = false;
        for (int thread : order) {
            if (fibers[thread].state != State::ready) continue;
            resume(thread);
            progress = true;
        }
        for (int first = 0; first < threads; first += kWarp) progress = release_warp(first, threads) || progress;
        if (failure[0]) return;
        if (!progress && !release_block(threads)) return;
    }
}

std::vector<int> order_of(int count, unsigned schedule) {
    std::vector<int> order(count);
    std::iota(order.begin(), order.end(), 0);
    if (schedule == 1) std::reverse(order.begin(), order.end());
    if (schedule > 1) std::shuffle(order.begin(), order.end(), std::mt19937(schedule));
    return order;
}

long long& slot_of(int thread, unsigned turn) { return fibers[thread].slots[turn % 2]; }
}  // namespace

void __syncthreads() { wait(State::at_block); }

int __syncthreads_count(int predicate) {
    const unsigned turn = fibers[running].waits;
    for (Fiber& fiber : fibers) {
        if (fiber.state == State::done) fiber.slots[turn % 2] = 0;
    }
    slot_of(running, turn) = predicate != 0;
    wait(State::at_block);
    int count = 0;
    for (unsigned i = 0; i < blockDim.x * blockDim.y * blockDim.z; ++i) count += int(slot_of(i, turn));
    return count;
}

void __syncwarp(unsigned mask) { wait(State::at_warp, mask); }

unsigned __ballot_sync(unsigned mask, int predicate) {
    const unsigned turn = fibers[running].waits;
    slot_of(running, turn) = predicate != 0;
    wait(State::at_warp, mask);
    unsigned votes = 0;
    for (int lane = 0; lane < kWarp; ++lane) {
        if (mask >> lane & 1u) votes |= unsigned(slot_of(running / kWarp * kWarp + lane, turn)) << lane;
    }
    return votes;
}

int __shfl_sync(unsigned mask, int value, int lane) {
    const unsigned turn = fibers[running].waits;
    slot_of(running, turn) = value;
    wait(State::at_warp, mask);
    return int(slot_of(running / kWarp * kWarp + lane % kWarp, turn));
}

// Returns what went wrong, or an empty text.
static const char* run(const unsigned* grid, const unsigned* block, unsigned schedule, void (*body)()) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    kernel = body;
    failure[0] = 0;
    const int threads = int(block[0] * block[1] * block[2]);
    while (int(fibers.size()) < threads) fibers.emplace_back();
    const std::vector<int> order = order_of(threads, schedule);
    for (int number : order_of(int(grid[0] * grid[1] * grid[2]), schedule)) {
        const unsigned n = number;
        blockIdx = {n % grid[0], n / grid[0] % grid[1], n / (grid[0] * grid[1])};
        run_block(order);
        if (failure[0]) break;
    }
    return failure;
}
