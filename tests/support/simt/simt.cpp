// Runs a kernel on the CPU. The threads of a block are fibers on one thread of the process; blocks run one by one.
//
// A fiber runs until it meets others, of its warp or of its block, or ends. When nobody can go on, the block either
// waits at one barrier as a whole, or hangs, which is reported. The order in which fibers and blocks run is chosen by
// `schedule` (0 forward, 1 reverse, n > 1 shuffled by seed n): code that lacks a barrier gives other results in another
// order. Shared memory is garbage at the start of each block. One library for all kernels: they share the fibers.
#include "simt.h"

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <vector>

#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace {
constexpr int kWarp = 32;
constexpr size_t kStackBytes = 96 * 1024;

enum class State : char { ready, at_warp, at_block, done };

struct Fiber {
    jmp_buf at;
    char* stack = nullptr;
    bool begun = false;  // it has a context to go on from
    Meeting meeting;
    unsigned long long result;
};

std::vector<Fiber> fibers;  // of the largest block so far
std::vector<State> states;  // of this block
int running;
jmp_buf scheduler;
void (*kernel)();
char failure[512];

template <class... A>
void fail(const char* format, A... arguments) {
    if (!failure[0]) std::snprintf(failure, sizeof failure, format, arguments...);
}

void leave(State state) {
    states[running] = state;
    if (_setjmp(fibers[running].at) == 0) _longjmp(scheduler, 1);
}

void begin() {
    while (true) {
        kernel();
        leave(State::done);  // and go on with the next block
    }
}

// An overflow of the stack meets a page that nobody may touch.
char* new_stack() {
    const size_t page = size_t(sysconf(_SC_PAGESIZE));
    void* const memory = mmap(nullptr, page + kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0) std::abort();
    return static_cast<char*>(memory) + page;
}

void resume(int thread) {
    Fiber& fiber = fibers[thread];
    running = thread;
    const unsigned n = unsigned(thread);
    threadIdx = {n % blockDim.x, n / blockDim.x % blockDim.y, n / (blockDim.x * blockDim.y)};
    if (_setjmp(scheduler) != 0) return;
    if (fiber.begun) _longjmp(fiber.at, 1);
    fiber.begun = true;
    if (!fiber.stack) fiber.stack = new_stack();
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = fiber.stack;
    context.uc_stack.ss_size = kStackBytes;
    context.uc_link = nullptr;
    makecontext(&context, begin, 0);
    setcontext(&context);
}

// Lets the lanes that `thread` waits for go on, if all of them have arrived.
void release_lanes(int thread) {
    const Meeting& mine = fibers[thread].meeting;
    const int first = thread / kWarp * kWarp;
    for (int lane = 0; lane < kWarp; ++lane) {
        if (!(mine.mask >> lane & 1u)) continue;
        const int other = first + lane;
        if (other >= int(states.size()) || states[other] == State::done) {
            return fail("%s (line %d) of thread %d names lane %d, which is not there", mine.name, mine.line, thread, lane);
        }
        const Meeting& theirs = fibers[other].meeting;
        if (states[other] != State::at_warp || theirs.mask != mine.mask) return;
        if (std::strcmp(theirs.name, mine.name) != 0) {
            return fail("thread %d is at %s (line %d), its partner %d at %s (line %d)", thread, mine.name, mine.line, other,
                        theirs.name, theirs.line);
        }
    }
    unsigned long long votes = 0;
    for (int lane = 0; lane < kWarp; ++lane) {
        if (mine.mask >> lane & 1u) votes |= (fibers[first + lane].meeting.brought & 1u) << lane;
    }
    for (int lane = 0; lane < kWarp; ++lane) {
        if (!(mine.mask >> lane & 1u)) continue;
        Fiber& fiber = fibers[first + lane];
        const int source = fiber.meeting.source;
        const bool shuffled = mine.kind == Meeting::shuffle;
        if (shuffled && !(mine.mask >> source & 1u)) {
            return fail("%s (line %d) of thread %d reads lane %d, which takes no part", mine.name, fiber.meeting.line,
                        first + lane, source);
        }
        fiber.result = shuffled ? fibers[first + source].meeting.brought : votes;
        states[first + lane] = State::ready;
    }
}

// Lets the block go on when all threads that are left wait at one barrier of the block. Returns whether any is left.
bool release_block() {
    const Meeting* barrier = nullptr;
    unsigned long long votes = 0;
    int waiting = 0;
    for (int i = 0; i < int(states.size()); ++i) {
        if (states[i] == State::done) continue;
        const Meeting& meeting = fibers[i].meeting;
        if (states[i] == State::at_warp) {
            release_lanes(i);  // says so if one that it waits for has left
            fail("the block hangs: thread %d waits at %s (line %d) for lanes that do not come", i, meeting.name, meeting.line);
            return false;
        }
        if (!barrier) barrier = &meeting, waiting = i;
        if (meeting.line != barrier->line || std::strcmp(meeting.name, barrier->name) != 0) {
            fail("the block hangs: thread %d waits at %s (line %d), thread %d at %s (line %d)", waiting, barrier->name,
                 barrier->line, i, meeting.name, meeting.line);
            return false;
        }
        votes += meeting.brought;
    }
    for (int i = 0; i < int(states.size()); ++i) {
        if (states[i] == State::done) continue;
        fibers[i].result = votes;
        states[i] = State::ready;
    }
    return barrier != nullptr;
}

using Warps = std::vector<std::vector<int>>;

// Each warp goes as far as it can before the next one does: nothing but barriers keeps warps together.
void run_block(const Warps& warps) {
    std::fill(states.begin(), states.end(), State::ready);
    do {
        for (const std::vector<int>& warp : warps) {
            for (bool progress = true; progress;) {
                progress = false;
                for (const int thread : warp) {
                    if (states[thread] != State::ready) continue;
                    resume(thread);
                    if (states[thread] == State::at_warp) release_lanes(thread);
                    if (failure[0]) return;
                    progress = true;
                }
            }
        }
    } while (release_block());
}

std::vector<int> order_of(size_t count, unsigned schedule) {
    std::vector<int> order(count);
    std::iota(order.begin(), order.end(), 0);
    if (schedule == 1) std::reverse(order.begin(), order.end());
    if (schedule > 1) std::shuffle(order.begin(), order.end(), std::mt19937(schedule));
    return order;
}

Warps warps_of(size_t threads, unsigned schedule) {
    Warps warps;
    for (const int warp : order_of((threads + kWarp - 1) / kWarp, schedule)) {
        const size_t first = size_t(warp) * kWarp;
        warps.push_back(order_of(std::min(threads - first, size_t(kWarp)), schedule));
        for (int& thread : warps.back()) thread += int(first);
    }
    return warps;
}
}  // namespace

unsigned long long meet(const Meeting& meeting) {
    fibers[running].meeting = meeting;
    const unsigned self = 1u << running % kWarp;
    if (!meeting.of_block && !(meeting.mask & self)) {
        fail("%s (line %d) of thread %d does not name its own lane", meeting.name, meeting.line, running);
    }
    leave(meeting.of_block ? State::at_block : State::at_warp);
    return fibers[running].result;
}

// The sanitizer's library calls this when it has found undefined behaviour, and lets the kernel go on.
extern "C" __attribute__((weak)) void __ubsan_get_current_report_data(const char** kind, const char** message, const char** file,
                                                                      unsigned* line, unsigned* column, char** address);
extern "C" void __ubsan_on_report() {
    const char *kind, *message, *file;
    unsigned line, column;
    char* address;
    __ubsan_get_current_report_data(&kind, &message, &file, &line, &column, &address);
    fail("undefined behaviour in thread %d, %s:%u: %s", running, file, line, message);
}

// Returns what went wrong, or an empty text. `shared` to `shared_end` is the kernel's shared memory.
extern "C" const char* simt_run(void (*body)(), char* shared, char* shared_end, const unsigned* grid, const unsigned* block,
                                unsigned schedule) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    kernel = body;
    failure[0] = 0;
    const size_t threads = size_t(block[0]) * block[1] * block[2];
    if (fibers.size() < threads) fibers.resize(threads);
    states.assign(threads, State::done);
    const Warps warps = warps_of(threads, schedule);
    for (const int number : order_of(size_t(grid[0]) * grid[1] * grid[2], schedule)) {
        const unsigned n = unsigned(number);
        blockIdx = {n % grid[0], n / grid[0] % grid[1], n / (grid[0] * grid[1])};
        std::memset(shared, 0xCD, size_t(shared_end - shared));
        run_block(warps);
        if (failure[0]) break;
    }
    for (size_t i = 0; i < threads; ++i) {
        if (states[i] != State::done) fibers[i].begun = false;  // it is lost in a kernel that failed
    }
    return failure;
}
