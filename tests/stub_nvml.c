/* A libnvidia-ml with one GPU, which has used 1,500 mJ more each time it is asked, and on which this process has 3 GB
   beside another's: the calls that edgekit.measuring.nvml makes, as nvml.h declares them, and as strict: nothing before
   nvmlInit_v2, and no other GPU. */

#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3 };

static int opened;
static unsigned long long used;
static int gpu;

int nvmlInit_v2(void) { opened++; return OK; }
int nvmlShutdown(void) { return opened ? (opened--, OK) : UNINITIALIZED; }

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device)
{
    if (!opened) return UNINITIALIZED;
    if (index || !device) return INVALID;
    *device = &gpu;
    return OK;
}

int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *energy)
{
    if (!opened) return UNINITIALIZED;
    if (device != &gpu || !energy) return INVALID;
    if (getenv("STUB_NVML_FAILS")) return NOT_SUPPORTED;
    *energy = used += 1500;
    return OK;
}

int nvmlDeviceGetCount_v2(unsigned int *count)
{
    if (!opened) return UNINITIALIZED;
    *count = 1;
    return OK;
}

struct process { unsigned int pid; unsigned long long used; unsigned int instance, compute; };

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned int *count, struct process *found)
{
    if (!opened) return UNINITIALIZED;
    if (device != &gpu || !count || *count < 2) return INVALID;
    if (getenv("STUB_NVML_FAILS")) return NOT_SUPPORTED;
    found[0] = (struct process){1, 1000, 0, 0};
    found[1] = (struct process){(unsigned int)getpid(), getenv("STUB_NVML_HIDES") ? ~0ULL : 3000000000ULL, 0, 0};
    *count = 2;
    return OK;
}

const char *nvmlErrorString(int code) { return code == NOT_SUPPORTED ? "Not Supported" : "Unknown Error"; }
