/* A stand-in for NVIDIA's libnvidia-ml.so.1, for machines without a GPU: it answers from a text file.
 *
 * PYFI_FAKE_NVML names the file, which is read again whenever it changed. Its form (written by nvml.py):
 *
 *     [node n1]                    a node; `*` is any other one
 *     driver = 550.54.15           `key = value` lines belong to the section above them
 *     [gpu]                        a GPU of that node, in the order of PCI
 *     uuid = GPU-…
 *     file = /…/dev/nvidia0        the GPU is there if this opens: ENXIO (nobody behind it) counts as open
 *     [mig]                        an instance of the GPU above
 *
 * The node is SLURMD_NODENAME, else the host's name. Source of names, numbers and structures: NVIDIA's nvml.h.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OK, UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND = 6, INSUFFICIENT_SIZE, NO_DRIVER = 9 };
enum { MOST = 128 };

typedef unsigned long long u64;
typedef struct { u64 total, free, used; } memory_v1;
typedef struct { unsigned version; u64 total, reserved, free, used; } memory_v2;
typedef struct { unsigned gpu, memory; } utilization;
typedef struct { unsigned version, sensor; int temperature; } temperature_v1;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } pci_v3;
typedef struct { unsigned pid; u64 used; unsigned gpu_instance, compute_instance; } process_v3;
typedef struct {
    char uuid[96], name[96], file[1024], cores[256], unsupported[256], processes[256], serial[32];
    unsigned minor, busy, degrees, milliwatts, mig, error;
    u64 mib, used_mib;
    int parent; /* a MIG instance: the number of its GPU; else -1 */
} device;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static device all[MOST];
static int count, users, counts_all;
static unsigned init_error;
static char driver[80];
static struct stat seen;

/* reading the file */

static void keep(char *to, size_t size, const char *value) { snprintf(to, size, "%.*s", (int)size - 1, value); }

static void set(device *d, const char *key, const char *value) {
    struct { const char *key; char *text; size_t size; } texts[] = {
        {"uuid", d->uuid, sizeof d->uuid}, {"name", d->name, sizeof d->name}, {"file", d->file, sizeof d->file},
        {"cores", d->cores, sizeof d->cores}, {"unsupported", d->unsupported, sizeof d->unsupported},
        {"processes", d->processes, sizeof d->processes}, {"serial", d->serial, sizeof d->serial},
    };
    struct { const char *key; unsigned *number; } numbers[] = {
        {"minor", &d->minor}, {"utilization", &d->busy}, {"temperature", &d->degrees},
        {"power_mw", &d->milliwatts}, {"mig", &d->mig}, {"error", &d->error},
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (!strcmp(key, texts[i].key)) keep(texts[i].text, texts[i].size, value);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!strcmp(key, numbers[i].key)) *numbers[i].number = strtoul(value, NULL, 10);
    if (!strcmp(key, "mem_mib")) d->mib = strtoull(value, NULL, 10);
    if (!strcmp(key, "mem_used_mib")) d->used_mib = strtoull(value, NULL, 10);
}

static void set_node(const char *key, const char *value) {
    if (!strcmp(key, "driver")) keep(driver, sizeof driver, value);
    if (!strcmp(key, "init_error")) init_error = strtoul(value, NULL, 10);
    if (!strcmp(key, "counts_all")) counts_all = atoi(value);
}

static device *add(int instance) {
    int gpu = -1;
    for (int i = 0; i < count; i++)
        if (all[i].parent < 0) gpu = i;
    if (count == MOST || (instance && gpu < 0)) return NULL;
    device *d = memset(&all[count++], 0, sizeof *d);
    d->parent = instance ? gpu : -1;
    if (instance) all[gpu].mig = 1;
    return d;
}

/* Whether a section of that name is there; what is in it then stands in `all` and beside it. */
static int read_node(FILE *file, const char *name) {
    char line[2048], key[64], value[1024], header[300];
    device *current = NULL;
    int inside = 0, found = 0;
    snprintf(header, sizeof header, "[node %s]", name);
    rewind(file);
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        if (!strncmp(line, "[node ", 6)) {
            inside = !strcmp(line, header);
            found |= inside;
            current = NULL;
        } else if (inside && (!strcmp(line, "[gpu]") || !strcmp(line, "[mig]"))) {
            current = add(line[1] == 'm');
        } else if (inside && sscanf(line, " %63[a-z_] = %1023[^\n]", key, value) == 2) {
            if (current) set(current, key, value);
            else set_node(key, value);
        }
    }
    return found;
}

static unsigned refresh(void) {
    const char *path = getenv("PYFI_FAKE_NVML"), *node = getenv("SLURMD_NODENAME");
    char host[256] = "";
    struct stat now;
    if (!path || stat(path, &now)) return NO_DRIVER;
    if (now.st_ino == seen.st_ino && now.st_size == seen.st_size && now.st_mtim.tv_sec == seen.st_mtim.tv_sec &&
        now.st_mtim.tv_nsec == seen.st_mtim.tv_nsec)
        return init_error;
    FILE *file = fopen(path, "re");
    if (!file) return NO_DRIVER;
    if (!node && !gethostname(host, sizeof host - 1)) node = host;
    count = counts_all = 0, init_error = OK;
    keep(driver, sizeof driver, "550.54.15");
    if (!read_node(file, node)) read_node(file, "*");
    fclose(file);
    seen = now;
    return init_error;
}

/* who is there */

static int opens(const device *d) {
    if (!d->file[0]) return 1;
    int fd = open(d->file, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd >= 0) close(fd);
    return fd >= 0 || (errno != EPERM && errno != EACCES && errno != ENOENT);
}

static int there(const device *d) { return opens(d) && (d->parent < 0 || opens(&all[d->parent])); }

static void *handle_of(const device *d) { return (char *)NULL + 1 + (d - all); }

/* Every call: up to date, initialised, the lock held until `done`. */
static unsigned begin(void) {
    pthread_mutex_lock(&lock);
    return users ? refresh() : UNINITIALIZED;
}

static unsigned done(unsigned result) {
    pthread_mutex_unlock(&lock);
    return result;
}

/* The device of a handle that can answer to `what`; else why not. */
static unsigned find(void *handle, const char *what, device **found) {
    unsigned result = begin();
    long number = (char *)handle - (char *)NULL - 1;
    if (result) return result;
    if (number < 0 || number >= count) return INVALID_ARGUMENT;
    *found = &all[number];
    if ((*found)->error) return (*found)->error;
    return strstr((*found)->unsupported, what) ? NOT_SUPPORTED : OK;
}

static unsigned text(char *to, unsigned size, const char *value) {
    return (unsigned)snprintf(to, size, "%s", value) < size ? OK : INSUFFICIENT_SIZE;
}

/* the library */

unsigned nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    pthread_mutex_lock(&lock);
    unsigned result = refresh();
    if (!result) users++;
    return done(result);
}
unsigned nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
unsigned nvmlShutdown(void) {
    pthread_mutex_lock(&lock);
    return done(users ? (users--, OK) : UNINITIALIZED);
}
const char *nvmlErrorString(unsigned result) { return result ? "an error of the stand-in" : "Success"; }

unsigned nvmlSystemGetDriverVersion(char *to, unsigned size) {
    unsigned result = begin();
    return done(result ? result : text(to, size, driver));
}
unsigned nvmlSystemGetNVMLVersion(char *to, unsigned size) { return text(to, size, "12.550.54.15"); }
unsigned nvmlSystemGetCudaDriverVersion(int *version) { return *version = 12040, OK; }
unsigned nvmlSystemGetCudaDriverVersion_v2(int *version) { return *version = 12040, OK; }

unsigned nvmlDeviceGetCount_v2(unsigned *number) {
    unsigned result = begin();
    *number = 0;
    for (int i = 0; i < count && !result; i++) *number += all[i].parent < 0 && (counts_all || opens(&all[i]));
    return done(result);
}

unsigned nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    unsigned result = begin();
    for (int i = 0; i < count && !result; i++) {
        int open = opens(&all[i]);
        if (all[i].parent >= 0 || !(counts_all || open) || index--) continue;
        *handle = handle_of(&all[i]);
        return done(open ? all[i].error : NO_PERMISSION);
    }
    return done(result ? result : INVALID_ARGUMENT);
}

unsigned nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    unsigned result = begin();
    for (int i = 0; i < count && !result; i++) {
        if (strcmp(all[i].uuid, uuid) || !there(&all[i])) continue;
        *handle = handle_of(&all[i]);
        return done(all[i].error);
    }
    return done(result ? result : NOT_FOUND);
}

/* one device */

#define GETTER(name, what, type, ...) \
    unsigned name(void *handle, type *out) { \
        device *d; \
        unsigned result = find(handle, what, &d); \
        if (!result) { __VA_ARGS__; } \
        return done(result); \
    }
#define TEXT(name, what, field) \
    unsigned name(void *handle, char *to, unsigned size) { \
        device *d; \
        unsigned result = find(handle, what, &d); \
        return done(result ? result : text(to, size, d->field)); \
    }
#define IN_MIG(d) ((d)->parent >= 0 || (d)->mig)

TEXT(nvmlDeviceGetName, "name", name)
TEXT(nvmlDeviceGetUUID, "uuid", uuid)
TEXT(nvmlDeviceGetSerial, "serial", serial)
GETTER(nvmlDeviceGetMinorNumber, "minor", unsigned, *out = d->parent < 0 ? d->minor : all[d->parent].minor)
GETTER(nvmlDeviceGetMemoryInfo, "memory", memory_v1,
       out->total = d->mib << 20; out->used = d->used_mib << 20; out->free = out->total - out->used)
GETTER(nvmlDeviceGetMemoryInfo_v2, "memory", memory_v2, out->total = d->mib << 20; out->used = d->used_mib << 20;
       out->reserved = 0; out->free = out->total - out->used)
GETTER(nvmlDeviceGetUtilizationRates, "utilization", utilization, if (IN_MIG(d)) result = NOT_SUPPORTED;
       else { out->gpu = d->busy; out->memory = d->busy / 2; })
GETTER(nvmlDeviceGetPowerUsage, "power", unsigned, if (d->parent >= 0) result = NOT_SUPPORTED; else *out = d->milliwatts)
GETTER(nvmlDeviceGetTemperatureV, "temperature", temperature_v1, if (d->parent >= 0) result = NOT_SUPPORTED;
       else out->temperature = (int)d->degrees)
GETTER(nvmlDeviceGetMaxMigDeviceCount, "mig", unsigned, *out = d->mig ? 7 : 0)
GETTER(nvmlDeviceIsMigDeviceHandle, "handle", unsigned, *out = d->parent >= 0)
GETTER(nvmlDeviceGetDeviceHandleFromMigDeviceHandle, "handle", void *, if (d->parent < 0) result = INVALID_ARGUMENT;
       else *out = handle_of(&all[d->parent]))
GETTER(nvmlDeviceGetPciInfo_v3, "pci", pci_v3, memset(out, 0, sizeof *out);
       out->bus = 1 + d->minor; snprintf(out->bus_id, sizeof out->bus_id, "00000000:%02X:00.0", out->bus);
       snprintf(out->legacy, sizeof out->legacy, "0000:%02X:00.0", out->bus))

unsigned nvmlDeviceGetTemperature(void *handle, unsigned sensor, unsigned *degrees) {
    temperature_v1 answer = {0, sensor, 0};
    unsigned result = nvmlDeviceGetTemperatureV(handle, &answer);
    return *degrees = (unsigned)answer.temperature, result;
}

unsigned nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    device *d;
    unsigned result = find(handle, "mig", &d);
    if (!result) *current = *pending = d->mig;
    return done(result);
}

unsigned nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned index, void **instance) {
    device *gpu;
    unsigned result = find(handle, "mig", &gpu);
    for (int i = 0; i < count && !result; i++) {
        if (all[i].parent != gpu - all || !opens(&all[i]) || index--) continue;
        *instance = handle_of(&all[i]);
        return done(all[i].error);
    }
    return done(result ? result : NOT_FOUND);
}

unsigned nvmlDeviceGetCpuAffinity(void *handle, unsigned words, unsigned long *set) {
    device *d;
    unsigned first, last, used, result = find(handle, "affinity", &d);
    if (result) return done(result);
    memset(set, 0, words * sizeof *set);
    for (const char *at = d->cores; sscanf(at, "%u%n", &first, (int *)&used) == 1; at += *at == ',') {
        at += used, last = first;
        if (sscanf(at, "-%u%n", &last, (int *)&used) == 1) at += used;
        for (; first <= last && first < words * 64; first++) set[first / 64] |= 1UL << first % 64;
    }
    return done(d->cores[0] ? OK : NOT_SUPPORTED);
}

unsigned nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *number, process_v3 *to) {
    device *d;
    unsigned pid, used, room = *number, result = find(handle, "processes", &d);
    u64 mib;
    if (result) return done(result);
    *number = 0;
    for (const char *at = d->processes; sscanf(at, "%u:%llu%n", &pid, &mib, (int *)&used) == 2; at += *at == ',') {
        at += used;
        if (to && *number < room) to[*number] = (process_v3){pid, mib << 20, ~0u, ~0u};
        ++*number;
    }
    return done(*number > room ? INSUFFICIENT_SIZE : OK);
}
