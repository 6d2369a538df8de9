/* A libcuda whose device is the host: what of the driver's interface the cuda target uses, as cuda.h of CUDA 13 declares
   it, and as strict as a GPU. Device addresses are marked (TAG), so that one taken for the host's, or the other way, is
   found; new memory holds garbage; copies on the device happen when the stream is waited for, and not before; every call
   on memory needs a current context, and every copy must lie within what was allocated. */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long CUdeviceptr;
typedef struct {
    size_t srcXInBytes, srcY;
    unsigned int srcMemoryType;
    const void *srcHost;
    CUdeviceptr srcDevice;
    void *srcArray;
    size_t srcPitch;
    size_t dstXInBytes, dstY;
    unsigned int dstMemoryType;
    void *dstHost;
    CUdeviceptr dstDevice;
    void *dstArray;
    size_t dstPitch;
    size_t WidthInBytes, Height;
} CUDA_MEMCPY2D;

enum { OK = 0, INVALID = 1, NO_MEMORY = 2, NO_DEVICE = 101, NO_CONTEXT = 201, ILLEGAL = 700 };
enum { BLOCKS = 4096, WAITING = 4096, MOST = 1 << 28 };

static struct { char *at; size_t size; } blocks[BLOCKS];
static CUDA_MEMCPY2D waiting[WAITING];
static struct { CUdeviceptr at; unsigned char value; size_t size; } sets[WAITING];
static int copies, settings, failing, major = 8;
static _Thread_local int contexts;

int stub_allocated(void) { int n = 0; for (int i = 0; i < BLOCKS; i++) n += blocks[i].at != NULL; return n; }
int stub_contexts(void) { return contexts; }
void stub_fail(int code) { failing = code; }

static char *inside(CUdeviceptr address, size_t size) {
    if ((address & TAG) != TAG) return NULL;
    char *at = (char *)(uintptr_t)(address & ~TAG);
    for (int i = 0; i < BLOCKS; i++)
        if (blocks[i].at && at >= blocks[i].at && at + size <= blocks[i].at + blocks[i].size) return at;
    return NULL;
}

static int copy(const CUDA_MEMCPY2D *c) {
    size_t from = c->srcPitch * (c->Height - 1) + c->WidthInBytes, to = c->dstPitch * (c->Height - 1) + c->WidthInBytes;
    const char *source = c->srcMemoryType == 2 ? inside(c->srcDevice, from) : (const char *)c->srcHost;
    char *target = c->dstMemoryType == 2 ? inside(c->dstDevice, to) : (char *)c->dstHost;
    if (!source || !target) return ILLEGAL;
    for (size_t row = 0; row < c->Height; row++)
        memcpy(target + row * c->dstPitch, source + row * c->srcPitch, c->WidthInBytes);
    return OK;
}

int cuInit(unsigned int flags) { return flags ? INVALID : OK; }
int cuDeviceGet(int *device, int ordinal) { *device = 40 + ordinal; return ordinal == 0 ? OK : NO_DEVICE; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    if (device != 40) return NO_DEVICE;
    *value = attribute == 75 ? major : attribute == 76 ? 6 : -1;
    return OK;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)0xC0DE; return device == 40 ? OK : NO_DEVICE; }
int cuCtxPushCurrent_v2(void *context) { if (context != (void *)0xC0DE) return INVALID; contexts++; return OK; }
int cuCtxPopCurrent_v2(void **context) { if (!contexts) return NO_CONTEXT; contexts--; *context = (void *)0xC0DE; return OK; }
int cuMemAlloc_v2(CUdeviceptr *address, size_t size) {
    if (!contexts) return NO_CONTEXT;
    if (!size) return INVALID;
    if (size > MOST) return NO_MEMORY;
    for (int i = 0; i < BLOCKS; i++)
        if (!blocks[i].at) {
            blocks[i].at = malloc(size);
            blocks[i].size = size;
            memset(blocks[i].at, 0xA5, size);
            *address = (CUdeviceptr)(uintptr_t)blocks[i].at | TAG;
            return OK;
        }
    return NO_MEMORY;
}
int cuMemFree_v2(CUdeviceptr address) {
    if (!contexts) return NO_CONTEXT;
    for (int i = 0; i < BLOCKS; i++)
        if (blocks[i].at && ((CUdeviceptr)(uintptr_t)blocks[i].at | TAG) == address) {
            free(blocks[i].at);
            blocks[i].at = NULL;
            return OK;
        }
    return INVALID;
}
int cuMemsetD8_v2(CUdeviceptr address, unsigned char value, size_t size) {
    if (failing) return failing;
    if (!contexts) return NO_CONTEXT;
    if (!inside(address, size)) return ILLEGAL;
    sets[settings].at = address, sets[settings].value = value, sets[settings++].size = size;
    return OK;
}
int cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D *c) {
    if (failing) return failing;
    if (!contexts) return NO_CONTEXT;
    if (c->srcXInBytes || c->srcY || c->dstXInBytes || c->dstY || c->srcArray || c->dstArray) return INVALID;
    if (c->WidthInBytes > c->srcPitch || c->WidthInBytes > c->dstPitch || !c->Height) return INVALID;
    if (c->srcMemoryType == 2 && c->dstMemoryType == 2) { waiting[copies++] = *c; return OK; }
    return copy(c);
}
int cuStreamSynchronize(void *stream) {
    if (stream) return INVALID;
    for (int i = 0; i < settings; i++) memset(inside(sets[i].at, sets[i].size), sets[i].value, sets[i].size);
    settings = 0;
    int code = OK;
    for (int i = 0; i < copies && !code; i++) code = copy(&waiting[i]);
    copies = 0;
    return code;
}
int cuGetErrorName(int code, const char **name) {
    *name = code == NO_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : code == ILLEGAL ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR";
    return OK;
}
