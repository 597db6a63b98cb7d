// Shared by both halves of the stand-in: status codes, a log of calls, and failures on demand.
#pragma once
#include <stddef.h>

typedef int CUresult;

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_UNMATCHED = 903
};

// Log a call, and return the status that the test has set.
CUresult log_call(const char* name, const char* form, ...) __attribute__((format(printf, 2, 3)));
#define LOG(...)                                       \
    do {                                               \
        CUresult set = log_call(__func__, __VA_ARGS__); \
        if (set) return set;                           \
    } while (0)

void* current_context(void);
