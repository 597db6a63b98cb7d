// A stand-in for NVIDIA's driver: the functions of a direct launch; device.c has the rest of the device. Launches call
// a function of the test, which runs the kernel on the CPU. One device, of compute capability 9.0; handles are numbers.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>

#include "stand_in.h"

typedef CUresult (*Launch)(void*, const unsigned*, void*, void**);

static Launch launch_callback;
static int loads;

void stand_in_launch(Launch callback) { launch_callback = callback; }
int stand_in_loads(void) { return loads; }

CUresult cuGetProcAddress_v2(const char* name, void** function, int version, unsigned long long flags, int* status) {
    (void)version, (void)flags;
    Dl_info here;
    dladdr((void*)stand_in_loads, &here);
    *function = dlsym(dlopen(here.dli_fname, RTLD_LAZY | RTLD_NOLOAD), name);
    if (status) *status = *function ? 0 : 1;
    return *function ? SUCCESS : NOT_FOUND;
}

CUresult cuDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }

CUresult cuDeviceGetAttribute(int* value, int attribute, int device) {
    (void)device;
    *value = attribute == 75 ? 9 : 0;  // compute capability: 75 is its major, 76 its minor
    return attribute == 75 || attribute == 76 ? SUCCESS : INVALID_VALUE;
}

CUresult cuPointerGetAttribute(void* value, int attribute, unsigned long long pointer) {
    if (attribute != 9 || pointer < 4096) return INVALID_VALUE;  // 9: the device's ordinal
    *(int*)value = 0;
    return SUCCESS;
}

CUresult cuLibraryLoadData(void** library, const void* code, int* o, void** v, unsigned n, int* p, void** w, unsigned m) {
    (void)o, (void)v, (void)n, (void)p, (void)w, (void)m;
    if (memcmp(code, "\177ELF", 4)) return NO_BINARY_FOR_GPU;
    ++loads;
    *library = (void*)0x11b;
    return SUCCESS;
}

CUresult cuLibraryGetKernel(void** kernel, void* library, const char* name) {
    if (library != (void*)0x11b) return INVALID_VALUE;
    (void)name;
    *kernel = (void*)0xce7;
    return SUCCESS;
}

CUresult cuKernelGetFunction(void** function, void* kernel) {
    *function = (void*)0xf00;
    return kernel == (void*)0xce7 ? SUCCESS : INVALID_VALUE;
}

CUresult cuFuncLoad(void* function) { return function == (void*)0xf00 ? SUCCESS : INVALID_VALUE; }

CUresult cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        unsigned shared_bytes, void* stream, void** parameters, void** extra) {
    if (function != (void*)0xce7 || shared_bytes || extra) return INVALID_VALUE;
    const unsigned geometry[] = {gx, gy, gz, bx, by, bz};
    return launch_callback(function, geometry, stream, parameters);
}

// NVRTC loads the driver, too, and asks for its private functions: there are none.
CUresult cuGetExportTable(const void** table, const void* identity) {
    (void)identity;
    *table = NULL;
    return NOT_FOUND;
}
