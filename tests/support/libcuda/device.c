// The stand-in's device: contexts, memory, streams, events and graphs. Memory is the host's, so a copy copies; work on
// a stream is done at once, or put into the graph that the stream is captured into. Every call is logged, and what is
// not released is counted. One thread at a time may call in, as the tests do.
#define _GNU_SOURCE
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stand_in.h"

enum { CAPACITY = 256, PRIMARY = 0xD0 };

typedef struct {
    void *to, *from;
    size_t bytes;
} Copy;

typedef struct {
    Copy copies[CAPACITY];
    int count;
} Graph;

typedef struct {
    int alive, capturing, broken;
    Graph* graph;
} Stream;

static char log_text[1 << 16];
static char failing[64];
static CUresult failure;
static int calls_before_failure;

static _Thread_local void* current;
static int initialised, devices = 1, retained, device_of_context;
static size_t total_bytes = (size_t)1 << 30, used_bytes;
static struct {
    void* pointer;
    size_t bytes;
    int pinned;
} blocks[CAPACITY];
static Stream streams[CAPACITY];
static int live_events, live_graphs, live_executables;

// ---- functions for the tests

const char* stand_in_log(void) { return log_text; }
void stand_in_clear(void) { log_text[0] = 0; }
void stand_in_devices(int count) { devices = count; }
void stand_in_memory(size_t bytes) { total_bytes = bytes; }
void stand_in_context(void* context) { current = context; }
void stand_in_device_of_context(int device) { device_of_context = device; }
void stand_in_break_capture(int stream) { streams[stream].broken = 1; }

// The function of this name returns the status, once it was called so many times.
void stand_in_fail(const char* name, CUresult status, int calls_before) {
    snprintf(failing, sizeof failing, "%s", name);
    failure = status;
    calls_before_failure = calls_before;
}

const char* stand_in_live(void) {
    static char text[256];
    int memory = 0, pinned = 0, open = 0;
    for (int i = 0; i < CAPACITY; ++i) {
        memory += blocks[i].pointer && !blocks[i].pinned;
        pinned += blocks[i].pointer && blocks[i].pinned;
        open += streams[i].alive;
    }
    snprintf(text, sizeof text, "memory=%d pinned=%d streams=%d events=%d graphs=%d executables=%d contexts=%d", memory,
             pinned, open, live_events, live_graphs, live_executables, retained);
    return text;
}

CUresult log_call(const char* name, const char* form, ...) {
    size_t length = strlen(log_text);
    length += snprintf(log_text + length, sizeof log_text - length, "%s ", name);
    va_list arguments;
    va_start(arguments, form);
    vsnprintf(log_text + length, sizeof log_text - length, form, arguments);
    va_end(arguments);
    length = strlen(log_text);
    snprintf(log_text + length, sizeof log_text - length, "\n");
    if (strcmp(name, failing) || calls_before_failure--) return SUCCESS;
    failing[0] = 0;
    return failure;
}

void* current_context(void) { return current; }

// ---- device and context

CUresult cuInit(unsigned flags) {
    LOG("%u", flags);
    initialised = 1;
    return devices ? SUCCESS : NO_DEVICE;
}

CUresult cuDeviceGetCount(int* count) { return *count = devices, initialised ? SUCCESS : NOT_INITIALIZED; }
CUresult cuDeviceGet(int* device, int ordinal) { return *device = ordinal, ordinal < devices ? SUCCESS : INVALID_DEVICE; }

CUresult cuDeviceGetName(char* name, int length, int device) {
    snprintf(name, length, "Stand-in %d", device);
    return SUCCESS;
}

CUresult cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) {
    (void)device;
    *flags = 0, *active = retained > 0;
    return SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(void** context, int device) {
    LOG("%d", device);
    ++retained;
    *context = (void*)(uintptr_t)(PRIMARY + device);
    return SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(int device) {
    LOG("%d", device);
    if (!retained) return INVALID_CONTEXT;
    --retained;
    return SUCCESS;
}

CUresult cuCtxGetCurrent(void** context) { return *context = current, SUCCESS; }
CUresult cuCtxGetDevice(int* device) { return *device = device_of_context, current ? SUCCESS : NOT_INITIALIZED; }

CUresult cuCtxSetCurrent(void* context) {
    LOG("%#lx", (unsigned long)(uintptr_t)context);
    current = context;
    return SUCCESS;
}

// ---- memory

static CUresult take(void** pointer, size_t bytes, int pinned) {
    if (!current) return INVALID_CONTEXT;
    if (used_bytes + bytes > total_bytes) return OUT_OF_MEMORY;
    for (int i = 0; i < CAPACITY; ++i)
        if (!blocks[i].pointer) {
            blocks[i].pointer = aligned_alloc(256, (bytes + 255) / 256 * 256);
            blocks[i].bytes = bytes, blocks[i].pinned = pinned;
            used_bytes += bytes;
            *pointer = blocks[i].pointer;
            return SUCCESS;
        }
    return OUT_OF_MEMORY;
}

static CUresult give(void* pointer, int pinned) {
    if (!current) return INVALID_CONTEXT;
    for (int i = 0; i < CAPACITY; ++i)
        if (pointer && blocks[i].pointer == pointer && blocks[i].pinned == pinned) {
            free(pointer);
            blocks[i].pointer = NULL;
            used_bytes -= blocks[i].bytes;
            return SUCCESS;
        }
    return INVALID_VALUE;
}

static int holds(const char* pointer, size_t bytes) {
    for (int i = 0; i < CAPACITY; ++i) {
        const char* start = blocks[i].pointer;
        if (start && pointer >= start && pointer + bytes <= start + blocks[i].bytes) return 1;
    }
    return 0;
}

CUresult cuMemAlloc(unsigned long long* pointer, size_t bytes) {
    LOG("%zu", bytes);
    return take((void**)pointer, bytes, 0);
}

CUresult cuMemHostAlloc(void** pointer, size_t bytes, unsigned flags) {
    LOG("%zu %u", bytes, flags);
    return take(pointer, bytes, 1);
}

CUresult cuMemFree(unsigned long long pointer) {
    LOG("%d", 0);
    return give((void*)(uintptr_t)pointer, 0);
}

CUresult cuMemFreeHost(void* pointer) {
    LOG("%d", 0);
    return give(pointer, 1);
}

CUresult cuMemGetInfo(size_t* free_bytes, size_t* total) {
    LOG("%d", 0);
    *free_bytes = total_bytes - used_bytes, *total = total_bytes;
    return SUCCESS;
}

// ---- streams and events: numbers from 1; 0 is the legacy default stream

static Stream* stream_of(void* handle) {
    uintptr_t number = (uintptr_t)handle;
    return number < CAPACITY && (number == 0 || streams[number].alive) ? &streams[number] : NULL;
}

CUresult cuStreamCreate(void** stream, unsigned flags) {
    LOG("%u", flags);
    for (int i = 1; i < CAPACITY; ++i)
        if (!streams[i].alive) {
            streams[i] = (Stream){.alive = 1};
            *stream = (void*)(uintptr_t)i;
            return SUCCESS;
        }
    return OUT_OF_MEMORY;
}

CUresult cuStreamDestroy(void* stream) {
    LOG("%d", (int)(uintptr_t)stream);
    if (!stream || !stream_of(stream)) return INVALID_HANDLE;
    stream_of(stream)->alive = 0;
    return SUCCESS;
}

CUresult cuStreamSynchronize(void* stream) {
    LOG("%d", (int)(uintptr_t)stream);
    Stream* on = stream_of(stream);
    if (!on) return INVALID_HANDLE;
    if (!on->capturing) return SUCCESS;
    on->broken = 1;
    return CAPTURE_UNSUPPORTED;
}

CUresult cuEventCreate(void** event, unsigned flags) {
    LOG("%u", flags);
    *event = (void*)(uintptr_t)(0xE0 + ++live_events);
    return SUCCESS;
}

CUresult cuEventDestroy(void* event) {
    LOG("%#x", (int)(uintptr_t)event);
    --live_events;
    return SUCCESS;
}

CUresult cuEventRecord(void* event, void* stream) {
    LOG("%#x %d", (int)(uintptr_t)event, (int)(uintptr_t)stream);
    return stream_of(stream) ? SUCCESS : INVALID_HANDLE;
}

CUresult cuEventElapsedTime(float* ms, void* start, void* end) {
    LOG("%#x %#x", (int)(uintptr_t)start, (int)(uintptr_t)end);
    *ms = 1.5f;
    return SUCCESS;
}

CUresult cuStreamWaitEvent(void* stream, void* event, unsigned flags) {
    LOG("%d %#x %u", (int)(uintptr_t)stream, (int)(uintptr_t)event, flags);
    return stream_of(stream) ? SUCCESS : INVALID_HANDLE;
}

CUresult cuMemcpyAsync(unsigned long long to, unsigned long long from, size_t bytes, void* stream) {
    LOG("%zu %d", bytes, (int)(uintptr_t)stream);
    Stream* on = stream_of(stream);
    if (!on) return INVALID_HANDLE;
    Copy copy = {(void*)(uintptr_t)to, (void*)(uintptr_t)from, bytes};
    if (!holds(copy.to, bytes) || !holds(copy.from, bytes)) return INVALID_VALUE;
    if (!on->capturing) memmove(copy.to, copy.from, bytes);
    else if (on->graph->count < CAPACITY) on->graph->copies[on->graph->count++] = copy;
    return SUCCESS;
}

// ---- graphs

CUresult cuStreamBeginCapture(void* stream, int mode) {
    LOG("%d %d", (int)(uintptr_t)stream, mode);
    Stream* on = stream_of(stream);
    if (!on) return INVALID_HANDLE;
    if (!stream) return CAPTURE_UNSUPPORTED;
    on->capturing = 1, on->broken = 0, on->graph = calloc(1, sizeof(Graph));
    ++live_graphs;
    return SUCCESS;
}

CUresult cuStreamIsCapturing(void* stream, int* status) {
    Stream* on = stream_of(stream);
    if (!on) return INVALID_HANDLE;
    *status = on->capturing;
    return SUCCESS;
}

CUresult cuStreamEndCapture(void* stream, void** graph) {
    LOG("%d", (int)(uintptr_t)stream);
    Stream* on = stream_of(stream);
    *graph = NULL;
    if (!on || !on->capturing) return CAPTURE_UNMATCHED;
    on->capturing = 0;
    if (!on->broken) return *graph = on->graph, SUCCESS;
    free(on->graph), --live_graphs;
    return CAPTURE_INVALIDATED;
}

CUresult cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long flags) {
    LOG("%llu", flags);
    *executable = memcpy(malloc(sizeof(Graph)), graph, sizeof(Graph));
    ++live_executables;
    return SUCCESS;
}

CUresult cuGraphUpload(void* executable, void* stream) {
    LOG("%d", (int)(uintptr_t)stream);
    return executable && stream_of(stream) ? SUCCESS : INVALID_HANDLE;
}

CUresult cuGraphLaunch(void* executable, void* stream) {
    LOG("%d", (int)(uintptr_t)stream);
    if (!executable || !stream_of(stream)) return INVALID_HANDLE;
    const Graph* graph = executable;
    for (int i = 0; i < graph->count; ++i) memmove(graph->copies[i].to, graph->copies[i].from, graph->copies[i].bytes);
    return SUCCESS;
}

CUresult cuGraphDestroy(void* graph) {
    LOG("%d", 0);
    free(graph), --live_graphs;
    return SUCCESS;
}

CUresult cuGraphExecDestroy(void* executable) {
    LOG("%d", 0);
    free(executable), --live_executables;
    return SUCCESS;
}
