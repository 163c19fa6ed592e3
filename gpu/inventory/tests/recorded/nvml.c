// A library with NVML's names that answers from a recording: `recording.txt` beside it, read anew at each call, so that a
// test can change what the devices say while a server runs. One line each:
//
//   driver VERSION CUDA                 such as 580.159.04 13000; `driver none` is a driver that is not loaded
//   gpu UUID MIB USED_MIB BUSY_PERCENT CELSIUS MILLIWATTS LIMIT_MILLIWATTS MILLIJOULES CORRECTED UNCORRECTED NAME...
//   slice UUID MIB USED_MIB NAME...     of the GPU above it, which is then cut
//   lost                                the GPU above does not answer
//   private                             the GPU above does not tell its memory
//   xid UUID NUMBER                     one event, delivered once by each event set
//
// Signatures and numbers are NVML's (nvml.h, API version 12): interface facts.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6, DRIVER_NOT_LOADED = 9, TIMEOUT = 10, GPU_LOST = 15 };
enum { DEVICES_MAX = 32 };

typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory;
typedef struct { unsigned gpu, memory; } Rates;
typedef struct { void *device; unsigned long long type, value; unsigned gi, ci; } Event;

typedef struct {
    char uuid[96], name[96];
    unsigned long long mib, used_mib, energy, corrected, uncorrected;
    unsigned busy, celsius, power, limit;
    int lost, private, parent; // index of the GPU that a slice is of, or -1
} Entry;

typedef struct {
    char driver[80];
    int cuda, count, events;
    Entry entries[DEVICES_MAX];
    struct { char uuid[96]; unsigned long long xid; } event[DEVICES_MAX];
} Recording;

static void load(Recording *all) {
    memset(all, 0, sizeof *all);
    Dl_info self;
    char path[4096], line[512];
    if (!dladdr((void *)load, &self)) return;
    snprintf(path, sizeof path, "%.*s/recording.txt", (int)(strrchr(self.dli_fname, '/') - self.dli_fname), self.dli_fname);
    FILE *file = fopen(path, "r");
    if (!file) return;
    int gpu = -1;
    while (fgets(line, sizeof line, file) && all->count < DEVICES_MAX && all->events < DEVICES_MAX) {
        Entry *entry = &all->entries[all->count];
        int at = 0;
        line[strcspn(line, "\n")] = 0;
        if (sscanf(line, "driver %79s %d", all->driver, &all->cuda) >= 1) continue;
        if (sscanf(line, "gpu %95s %llu %llu %u %u %u %u %llu %llu %llu %n", entry->uuid, &entry->mib, &entry->used_mib,
                   &entry->busy, &entry->celsius, &entry->power, &entry->limit, &entry->energy, &entry->corrected,
                   &entry->uncorrected, &at) == 10) {
            entry->parent = -1;
            gpu = all->count++;
        } else if (sscanf(line, "slice %95s %llu %llu %n", entry->uuid, &entry->mib, &entry->used_mib, &at) == 3) {
            entry->parent = gpu;
            all->count++;
        } else if (!strcmp(line, "lost") && gpu >= 0) {
            all->entries[gpu].lost = 1;
        } else if (!strcmp(line, "private") && gpu >= 0) {
            all->entries[gpu].private = 1;
        } else if (sscanf(line, "xid %95s %llu", all->event[all->events].uuid, &all->event[all->events].xid) == 2) {
            all->events++;
        }
        if (at) snprintf(entry->name, sizeof entry->name, "%s", line + at);
    }
    fclose(file);
}

// A handle is the entry's number plus one: it outlives the recording that it came from.
static int entry(void *device, Entry *found) {
    Recording all;
    load(&all);
    long index = (long)device - 1;
    if (index < 0 || index >= all.count) return INVALID;
    *found = all.entries[index];
    return found->lost ? GPU_LOST : SUCCESS;
}

#define ENTRY(device) Entry it; int failed = entry(device, &it); if (failed) return failed
#define OF_GPU(value, out) do { ENTRY(device); if (it.parent >= 0) return NOT_SUPPORTED; *(out) = (value); return SUCCESS; } while (0)

int nvmlInit_v2(void) {
    Recording all;
    load(&all);
    return strcmp(all.driver, "none") ? SUCCESS : DRIVER_NOT_LOADED;
}
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { (void)code; return "recorded"; }
int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    Recording all;
    load(&all);
    snprintf(version, length, "%s", all.driver);
    return SUCCESS;
}
int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    Recording all;
    load(&all);
    *version = all.cuda;
    return SUCCESS;
}

static int nth(int index, int parent, void **device) {
    Recording all;
    load(&all);
    for (long i = 0; i < all.count; i++)
        if ((parent < 0 ? all.entries[i].parent < 0 : all.entries[i].parent == parent) && index-- == 0) {
            *device = (void *)(i + 1);
            return SUCCESS;
        }
    return parent < 0 ? INVALID : NOT_FOUND;
}
int nvmlDeviceGetCount_v2(unsigned *count) {
    void *device;
    for (*count = 0; nth(*count, -1, &device) == SUCCESS; ++*count) {}
    return SUCCESS;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { return nth(index, -1, device); }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    Recording all;
    load(&all);
    for (long i = 0; i < all.count; i++)
        if (!strcmp(all.entries[i].uuid, uuid)) {
            *device = (void *)(i + 1);
            return all.entries[i].lost ? GPU_LOST : SUCCESS;
        }
    return NOT_FOUND;
}
int nvmlDeviceGetUUID(void *device, char *uuid, unsigned length) {
    ENTRY(device);
    snprintf(uuid, length, "%s", it.uuid);
    return SUCCESS;
}
int nvmlDeviceGetName(void *device, char *name, unsigned length) {
    ENTRY(device);
    snprintf(name, length, "%s", it.name);
    return SUCCESS;
}
int nvmlDeviceGetMemoryInfo_v2(void *device, Memory *memory) {
    ENTRY(device);
    if (it.private) return NO_PERMISSION;
    memory->total = it.mib << 20;
    memory->used = it.used_mib << 20;
    memory->free = memory->total - memory->used;
    memory->reserved = 0;
    return SUCCESS;
}
int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    ENTRY(device);
    *major = 9;
    *minor = 0;
    return SUCCESS;
}
int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
    ENTRY(device);
    void *slice;
    *current = *pending = nth(0, (int)((long)device - 1), &slice) == SUCCESS;
    return SUCCESS;
}
int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *count) { OF_GPU(7, count); }
int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **slice) {
    ENTRY(device);
    return nth((int)index, (int)((long)device - 1), slice);
}
int nvmlDeviceGetUtilizationRates(void *device, Rates *rates) {
    ENTRY(device);
    void *slice;
    if (it.parent >= 0 || nth(0, (int)((long)device - 1), &slice) == SUCCESS) return NOT_SUPPORTED;
    rates->gpu = it.busy;
    rates->memory = 0;
    return SUCCESS;
}
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) { (void)sensor; OF_GPU(it.celsius, celsius); }
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) { OF_GPU(it.power, milliwatts); }
int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned *milliwatts) { OF_GPU(it.limit, milliwatts); }
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules) { OF_GPU(it.energy, millijoules); }
int nvmlDeviceGetTotalEccErrors(void *device, int kind, int counter, unsigned long long *count) {
    (void)counter;
    OF_GPU(kind == 0 ? it.corrected : it.uncorrected, count);
}

int nvmlEventSetCreate(void **set) { return (*set = calloc(1, sizeof(int))) ? SUCCESS : INVALID; }
int nvmlEventSetFree(void *set) { free(set); return SUCCESS; }
int nvmlDeviceGetSupportedEventTypes(void *device, unsigned long long *types) {
    ENTRY(device);
    *types = it.private ? 0 : 8; // nvmlEventTypeXidCriticalError
    return SUCCESS;
}
int nvmlDeviceRegisterEvents(void *device, unsigned long long types, void *set) {
    (void)types, (void)set;
    ENTRY(device);
    return it.private ? NOT_SUPPORTED : SUCCESS;
}
int nvmlEventSetWait_v2(void *set, Event *event, unsigned ms) {
    int *delivered = set;
    for (unsigned waited = 0;; waited += 10) {
        Recording all;
        load(&all);
        if (*delivered < all.events) {
            memset(event, 0, sizeof *event);
            event->type = 8; // nvmlEventTypeXidCriticalError
            event->value = all.event[*delivered].xid;
            return nvmlDeviceGetHandleByUUID(all.event[(*delivered)++].uuid, &event->device) == SUCCESS ? SUCCESS : TIMEOUT;
        }
        if (waited >= ms) return TIMEOUT;
        usleep(10000);
    }
}
