/* A double of the NVIDIA driver (libcuda.so.1): there is no GPU behind it.

   Memory is the host's. Copies and event records wait in their stream until somebody synchronises, or in a graph until it is
   launched and synchronised; a clock counts them. It is stricter than the driver wherever it can see a mistake: it refuses work
   without a current context, handles and addresses that it did not hand out or took back, and what a capture does not permit.
   Handles need more than 32 bits. The GPU sees mapped host memory under another address than the host does.

   It shows whether the driver is asked for the right things, in the right order, from the right thread, with every answer
   looked at and everything given back. It cannot show that a GPU does them: no kernels, no concurrency, no caches, no speed,
   and where the driver's manual is silent its answers are a guess.

   Environment: DRIVER_DOUBLE_GPUS (default 1; 0: cuInit finds none), DRIVER_DOUBLE_VERSION (default 13020). Functions that
   begin with "double_" are the tests' own. */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

typedef int CUresult;
typedef unsigned long long CUdeviceptr;
typedef void *Handle;

enum {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201, INVALID_HANDLE = 400, ILLEGAL_STATE = 401, NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700,
    LAUNCH_TIMEOUT = 702, CONTEXT_IS_DESTROYED = 709, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901,
    CAPTURED_EVENT = 907, CAPTURE_WRONG_THREAD = 908, UNKNOWN = 999
};

static const struct { int code; const char *name, *text; } EXPLAINED[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {ILLEGAL_STATE, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {LAUNCH_TIMEOUT, "CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated"},
    {CONTEXT_IS_DESTROYED, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
    {CAPTURED_EVENT, "CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"},
    {CAPTURE_WRONG_THREAD, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", "attempt to terminate a thread-local capture from another thread"},
    {UNKNOWN, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

/* ---- what there is ---------------------------------------------------------------------------------------------------- */

enum Kind { NONE, MEMORY, HOST, STREAM, EVENT, GRAPH, EXEC };
static const char *const KINDS[] = {"none", "memory", "host", "stream", "event", "graph", "exec"};
enum { NOT_CAPTURING, CAPTURING, INVALIDATED };                /* a stream's state */
enum { GLOBAL, THREAD_LOCAL, RELAXED };                        /* a capture's mode */
enum { NEVER, PENDING, RECORDED, RECORDED_IN_A_CAPTURE };      /* an event's state */

struct Node { CUdeviceptr target, source; size_t size; int to_device, from_device; Handle event; }; /* a copy, or a record */
struct Work { struct Node *nodes; int count; };

struct Thing {
    enum Kind kind;
    CUdeviceptr handle; /* as the host knows it */
    CUdeviceptr seen;   /* where the GPU sees memory; 0: nowhere */
    size_t size;
    int state, mode, error;
    pthread_t thread;
    double moment;
    struct Work work, captured;
};

enum { THINGS = 4096, GPUS = 8, DEPTH = 64, FUNCTIONS = 64, ATTRIBUTES = 256 };
static struct Thing things[THINGS];
static int retained[GPUS], initialised, attributes[ATTRIBUTES];
static __thread int stack[DEPTH], depth;
static struct { const char *name; int calls, fails; unsigned flags; } functions[FUNCTIONS];
static unsigned long long next_handle = 0x700000000000ull;
static double clock_ms;
static volatile int holding; /* whether cuStreamSynchronize waits for double_release */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static int gpus(void) { const char *text = getenv("DRIVER_DOUBLE_GPUS"); return text ? atoi(text) : 1; }
static int version(void) { const char *text = getenv("DRIVER_DOUBLE_VERSION"); return text ? atoi(text) : 13020; }
static Handle context_of(int gpu) { return (Handle)(0x600000000000ull + 64ull * gpu); }

static struct Thing *found(enum Kind kind, CUdeviceptr handle) {
    for (int i = 0; handle && i < THINGS; i++)
        if (things[i].kind == kind && things[i].handle == handle) return &things[i];
    return 0;
}
static struct Thing *handed_out(enum Kind kind, CUdeviceptr handle) {
    for (int i = 0; i < THINGS; i++)
        if (things[i].kind == NONE) {
            things[i] = (struct Thing){.kind = kind, .handle = handle ? handle : (next_handle += 64)};
            return &things[i];
        }
    abort();
}
static void taken_back(struct Thing *thing) {
    if (thing->kind == MEMORY) free((void *)thing->handle);
    if (thing->kind == HOST && thing->seen) {
        munmap((void *)thing->seen, thing->size);
        munmap((void *)thing->handle, thing->size);
    } else if (thing->kind == HOST) free((void *)thing->handle);
    free(thing->work.nodes);
    free(thing->captured.nodes);
    *thing = (struct Thing){0};
}

/* ---- what every function does first ----------------------------------------------------------------------------------- */

static int known(const char *name) { /* "cuMemAlloc_v2" and "cuMemAlloc" are one */
    char base[64];
    strncpy(base, name, sizeof base - 1);
    base[sizeof base - 1] = 0;
    char *end = strstr(base, "_v2");
    if (end) *end = 0;
    for (int i = 0; i < FUNCTIONS; i++) {
        if (!functions[i].name) functions[i].name = strdup(base);
        if (!strcmp(functions[i].name, base)) return i;
    }
    abort();
}
static void unlock(int *unused) { (void)unused; pthread_mutex_unlock(&mutex); }
static int entered(const char *name, unsigned flags, int needs_context) {
    int at = known(name);
    functions[at].calls++;
    functions[at].flags = flags;
    if (functions[at].fails) return functions[at].fails;
    if (!initialised && needs_context >= 0) return NOT_INITIALIZED;
    if (needs_context > 0 && !depth) return INVALID_CONTEXT;
    if (needs_context > 0 && !retained[stack[depth - 1]]) return CONTEXT_IS_DESTROYED;
    return SUCCESS;
}
#define LOCKED __attribute__((cleanup(unlock))) int held = pthread_mutex_lock(&mutex); (void)held
#define ENTER(flags, needs_context)                                                                                         \
    LOCKED;                                                                                                                 \
    { int refused = entered(__func__, flags, needs_context); if (refused) return refused; }
#define WORKS(flags) ENTER(flags, 1)
#define REFUSE_UNLESS(condition, code) do { if (!(condition)) return code; } while (0)

/* What may wait for the GPU is refused to a thread that captures, and to all while somebody captures in mode GLOBAL. */
static int refused_by_a_capture(void) {
    int refused = 0;
    for (int i = 0; i < THINGS; i++) {
        struct Thing *s = &things[i];
        if (s->kind != STREAM || s->state == NOT_CAPTURING) continue;
        int own = pthread_equal(s->thread, pthread_self());
        if ((own && s->mode != RELAXED) || (!own && s->mode == GLOBAL)) { s->state = INVALIDATED; refused = 1; }
    }
    return refused;
}

/* ---- streams' work ---------------------------------------------------------------------------------------------------- */

static void append(struct Work *work, const struct Node *nodes, int count) {
    work->nodes = realloc(work->nodes, (work->count + count) * sizeof *nodes);
    if (count) memcpy(work->nodes + work->count, nodes, count * sizeof *nodes);
    work->count += count;
}
/* Return where the host finds what the GPU sees at an address, or 0 if that is not all within something alive. */
static void *on_host(CUdeviceptr address, size_t size) {
    for (int i = 0; i < THINGS; i++) {
        struct Thing *t = &things[i];
        if ((t->kind == MEMORY || t->kind == HOST) && t->seen && address >= t->seen && address + size <= t->seen + t->size)
            return (void *)(t->handle + (address - t->seen));
    }
    return 0;
}
static void *target_of(const struct Node *n) { return n->to_device ? on_host(n->target, n->size) : (void *)n->target; }
static void *source_of(const struct Node *n) { return n->from_device ? on_host(n->source, n->size) : (void *)n->source; }
static int possible(const struct Node *n) {
    if (n->event) return found(EVENT, (CUdeviceptr)n->event) != 0;
    return target_of(n) && source_of(n);
}
static void done(struct Thing *stream) {
    for (int i = 0; i < stream->work.count && !stream->error; i++) {
        struct Node *n = &stream->work.nodes[i];
        if (!possible(n)) { stream->error = ILLEGAL_ADDRESS; break; }
        clock_ms += 1;
        if (n->event) {
            struct Thing *event = found(EVENT, (CUdeviceptr)n->event);
            event->state = RECORDED;
            event->moment = clock_ms;
        } else
            memmove(target_of(n), source_of(n), n->size);
    }
    stream->work.count = 0;
}
static void all_done(void) {
    for (int i = 0; i < THINGS; i++) if (things[i].kind == STREAM) done(&things[i]);
}
static CUresult enqueued(Handle handle, struct Node node) {
    struct Thing *stream = found(STREAM, (CUdeviceptr)handle);
    REFUSE_UNLESS(stream, INVALID_HANDLE);
    REFUSE_UNLESS(stream->state != INVALIDATED, CAPTURE_INVALIDATED);
    REFUSE_UNLESS(node.event || node.size, INVALID_VALUE);
    REFUSE_UNLESS(possible(&node), INVALID_VALUE);
    append(stream->state == CAPTURING ? &stream->captured : &stream->work, &node, 1);
    return SUCCESS;
}

/* ---- the driver's functions ------------------------------------------------------------------------------------------- */

CUresult cuInit(unsigned flags) {
    ENTER(flags, -1);
    REFUSE_UNLESS(gpus() != 0, NO_DEVICE);
    initialised = 1;
    return SUCCESS;
}
CUresult cuDriverGetVersion(int *out) { ENTER(0, -1); *out = version(); return SUCCESS; }
CUresult cuDeviceGetCount(int *out) { ENTER(0, 0); *out = gpus() > 0 ? gpus() : 0; return SUCCESS; }
CUresult cuDeviceGet(int *out, int number) {
    ENTER(0, 0);
    REFUSE_UNLESS(number >= 0 && number < gpus(), INVALID_DEVICE);
    *out = number;
    return SUCCESS;
}
CUresult cuDeviceGetName(char *out, int length, int gpu) {
    ENTER(0, 0);
    REFUSE_UNLESS(gpu >= 0 && gpu < gpus(), INVALID_DEVICE);
    strncpy(out, gpu ? "A double of another GPU" : "A double of a GPU", length);
    return SUCCESS;
}
CUresult cuDeviceGetAttribute(int *out, int attribute, int gpu) {
    ENTER(0, 0);
    REFUSE_UNLESS(gpu >= 0 && gpu < gpus(), INVALID_DEVICE);
    REFUSE_UNLESS(attribute > 0 && attribute < ATTRIBUTES, INVALID_VALUE);
    *out = attributes[attribute];
    return SUCCESS;
}
CUresult cuDeviceComputeCapability(int *major, int *minor, int gpu) {
    ENTER(0, 0);
    REFUSE_UNLESS(gpu >= 0 && gpu < gpus(), INVALID_DEVICE);
    *major = attributes[75], *minor = attributes[76];
    return SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(Handle *out, int gpu) {
    ENTER(0, 0);
    REFUSE_UNLESS(gpu >= 0 && gpu < gpus(), INVALID_DEVICE);
    retained[gpu]++;
    *out = context_of(gpu);
    return SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease_v2(int gpu) {
    ENTER(0, 0);
    REFUSE_UNLESS(gpu >= 0 && gpu < gpus() && retained[gpu], INVALID_CONTEXT);
    retained[gpu]--; /* neither popped from any stack nor, here, are its resources freed: a leak shall be seen */
    return SUCCESS;
}
CUresult cuCtxPushCurrent_v2(Handle context) {
    ENTER(0, 0);
    for (int gpu = 0; gpu < GPUS; gpu++)
        if (retained[gpu] && context == context_of(gpu) && depth < DEPTH) { stack[depth++] = gpu; return SUCCESS; }
    return INVALID_CONTEXT;
}
CUresult cuCtxPopCurrent_v2(Handle *out) {
    ENTER(0, 0);
    REFUSE_UNLESS(depth, INVALID_CONTEXT);
    depth--;
    if (out) *out = context_of(stack[depth]);
    return SUCCESS;
}
/* PyCUDA's destructors call it, for a primary context too, which it is not made for. */
CUresult cuCtxDetach(Handle context) { ENTER(0, 0); (void)context; return INVALID_CONTEXT; }
CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    WORKS(0);
    *total = 8ull << 30, *free_bytes = *total;
    for (int i = 0; i < THINGS; i++) if (things[i].kind == MEMORY) *free_bytes -= things[i].size;
    return SUCCESS;
}

CUresult cuMemAlloc_v2(CUdeviceptr *out, size_t size) {
    WORKS(0);
    REFUSE_UNLESS(!refused_by_a_capture(), CAPTURE_UNSUPPORTED);
    REFUSE_UNLESS(size, INVALID_VALUE);
    void *memory = 0;
    REFUSE_UNLESS(size <= 1ull << 30 && !posix_memalign(&memory, 512, size), OUT_OF_MEMORY);
    memset(memory, 0xA5, size); /* what nobody wrote is not zero */
    struct Thing *made = handed_out(MEMORY, (CUdeviceptr)memory);
    made->size = size, made->seen = *out = made->handle;
    return SUCCESS;
}
CUresult cuMemFree_v2(CUdeviceptr address) {
    WORKS(0);
    REFUSE_UNLESS(!refused_by_a_capture(), CAPTURE_UNSUPPORTED);
    struct Thing *memory = found(MEMORY, address);
    REFUSE_UNLESS(memory, INVALID_VALUE);
    all_done(); /* as the driver, which waits for the GPU here */
    taken_back(memory);
    return SUCCESS;
}
CUresult cuMemHostAlloc(void **out, size_t size, unsigned flags) {
    WORKS(flags);
    REFUSE_UNLESS(!refused_by_a_capture(), CAPTURE_UNSUPPORTED);
    REFUSE_UNLESS(size && flags < 8, INVALID_VALUE);
    REFUSE_UNLESS(size <= 1ull << 30, OUT_OF_MEMORY);
    void *memory = 0, *seen = 0;
    if (flags & 2) { /* mapped: one memory under two addresses */
        int file = memfd_create("mapped", 0);
        REFUSE_UNLESS(file >= 0 && !ftruncate(file, size), OUT_OF_MEMORY);
        memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        seen = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        close(file);
        REFUSE_UNLESS(memory != MAP_FAILED && seen != MAP_FAILED, OUT_OF_MEMORY);
    } else REFUSE_UNLESS(!posix_memalign(&memory, 4096, size), OUT_OF_MEMORY);
    memset(memory, 0xA5, size);
    struct Thing *made = handed_out(HOST, (CUdeviceptr)memory);
    made->size = size, made->seen = (CUdeviceptr)seen;
    *out = memory;
    return SUCCESS;
}
CUresult cuMemFreeHost(void *address) {
    WORKS(0);
    REFUSE_UNLESS(!refused_by_a_capture(), CAPTURE_UNSUPPORTED);
    struct Thing *memory = found(HOST, (CUdeviceptr)address);
    REFUSE_UNLESS(memory, INVALID_VALUE);
    all_done();
    taken_back(memory);
    return SUCCESS;
}
CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *out, void *address, unsigned flags) {
    WORKS(flags);
    struct Thing *memory = found(HOST, (CUdeviceptr)address);
    REFUSE_UNLESS(memory && memory->seen && !flags, INVALID_VALUE);
    *out = memory->seen;
    return SUCCESS;
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr target, const void *source, size_t size, Handle stream) {
    WORKS(0);
    return enqueued(stream, (struct Node){.target = target, .source = (CUdeviceptr)source, .size = size, .to_device = 1});
}
CUresult cuMemcpyDtoHAsync_v2(void *target, CUdeviceptr source, size_t size, Handle stream) {
    WORKS(0);
    return enqueued(stream, (struct Node){.target = (CUdeviceptr)target, .source = source, .size = size, .from_device = 1});
}
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr target, CUdeviceptr source, size_t size, Handle stream) {
    WORKS(0);
    return enqueued(stream, (struct Node){.target = target, .source = source, .size = size, .to_device = 1, .from_device = 1});
}

CUresult cuStreamCreate(Handle *out, unsigned flags) {
    WORKS(flags);
    *out = (Handle)handed_out(STREAM, 0)->handle;
    return SUCCESS;
}
CUresult cuStreamDestroy_v2(Handle handle) {
    WORKS(0);
    struct Thing *stream = found(STREAM, (CUdeviceptr)handle);
    REFUSE_UNLESS(stream, INVALID_HANDLE);
    done(stream);
    taken_back(stream);
    return SUCCESS;
}
CUresult cuStreamSynchronize(Handle handle) {
    /* The lock is not held here: whoever is to release it must get in. */
    for (int waited = 0; holding; waited++) {
        if (waited > 2000) return LAUNCH_TIMEOUT;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, 0);
    }
    WORKS(0);
    struct Thing *stream = found(STREAM, (CUdeviceptr)handle);
    REFUSE_UNLESS(stream, INVALID_HANDLE);
    REFUSE_UNLESS(stream->state != INVALIDATED, CAPTURE_INVALIDATED);
    if (stream->state == CAPTURING) { stream->state = INVALIDATED; return CAPTURE_UNSUPPORTED; }
    done(stream);
    return stream->error;
}

CUresult cuEventCreate(Handle *out, unsigned flags) {
    WORKS(flags);
    *out = (Handle)handed_out(EVENT, 0)->handle;
    return SUCCESS;
}
CUresult cuEventDestroy_v2(Handle handle) {
    WORKS(0);
    struct Thing *event = found(EVENT, (CUdeviceptr)handle);
    REFUSE_UNLESS(event, INVALID_HANDLE);
    all_done();
    taken_back(event);
    return SUCCESS;
}
static CUresult recorded(Handle handle, Handle into, unsigned flags) {
    struct Thing *event = found(EVENT, (CUdeviceptr)handle), *stream = found(STREAM, (CUdeviceptr)into);
    REFUSE_UNLESS(event && stream, INVALID_HANDLE);
    REFUSE_UNLESS(flags <= 1, INVALID_VALUE);
    REFUSE_UNLESS(stream->state != INVALIDATED, CAPTURE_INVALIDATED);
    int external = flags & 1;
    REFUSE_UNLESS(!external || stream->state == CAPTURING, INVALID_VALUE);
    if (stream->state == CAPTURING && !external) { event->state = RECORDED_IN_A_CAPTURE; return SUCCESS; }
    if (stream->state == NOT_CAPTURING) event->state = PENDING;
    return enqueued(into, (struct Node){.event = handle});
}
CUresult cuEventRecord(Handle event, Handle stream) { WORKS(0); return recorded(event, stream, 0); }
CUresult cuEventRecordWithFlags(Handle event, Handle stream, unsigned flags) { WORKS(flags); return recorded(event, stream, flags); }
CUresult cuEventElapsedTime(float *out, Handle first, Handle second) {
    WORKS(0);
    struct Thing *start = found(EVENT, (CUdeviceptr)first), *end = found(EVENT, (CUdeviceptr)second);
    REFUSE_UNLESS(start && end && start->state != NEVER && end->state != NEVER, INVALID_HANDLE);
    REFUSE_UNLESS(start->state != RECORDED_IN_A_CAPTURE && end->state != RECORDED_IN_A_CAPTURE, CAPTURED_EVENT);
    REFUSE_UNLESS(start->state == RECORDED && end->state == RECORDED, NOT_READY);
    *out = (float)(end->moment - start->moment);
    return SUCCESS;
}

CUresult cuStreamBeginCapture_v2(Handle handle, int mode) {
    WORKS(mode);
    struct Thing *stream = found(STREAM, (CUdeviceptr)handle);
    REFUSE_UNLESS(stream, INVALID_HANDLE);
    REFUSE_UNLESS(mode >= GLOBAL && mode <= RELAXED, INVALID_VALUE);
    REFUSE_UNLESS(stream->state == NOT_CAPTURING, ILLEGAL_STATE);
    stream->state = CAPTURING, stream->mode = mode, stream->thread = pthread_self();
    stream->captured.count = 0;
    return SUCCESS;
}
CUresult cuStreamEndCapture(Handle handle, Handle *out) {
    WORKS(0);
    struct Thing *stream = found(STREAM, (CUdeviceptr)handle);
    *out = 0;
    REFUSE_UNLESS(stream, INVALID_HANDLE);
    REFUSE_UNLESS(stream->state != NOT_CAPTURING, ILLEGAL_STATE);
    REFUSE_UNLESS(stream->mode == RELAXED || pthread_equal(stream->thread, pthread_self()), CAPTURE_WRONG_THREAD);
    int state = stream->state;
    stream->state = NOT_CAPTURING;
    REFUSE_UNLESS(state == CAPTURING, CAPTURE_INVALIDATED);
    struct Thing *graph = handed_out(GRAPH, 0);
    graph->work = stream->captured;
    stream->captured = (struct Work){0};
    *out = (Handle)graph->handle;
    return SUCCESS;
}
CUresult cuGraphInstantiateWithFlags(Handle *out, Handle handle, unsigned long long flags) {
    WORKS((unsigned)flags);
    struct Thing *graph = found(GRAPH, (CUdeviceptr)handle);
    REFUSE_UNLESS(graph && !flags, INVALID_VALUE);
    struct Thing *made = handed_out(EXEC, 0);
    append(&made->work, graph->work.nodes, graph->work.count);
    *out = (Handle)made->handle;
    return SUCCESS;
}
CUresult cuGraphLaunch(Handle handle, Handle into) {
    WORKS(0);
    struct Thing *graph = found(EXEC, (CUdeviceptr)handle), *stream = found(STREAM, (CUdeviceptr)into);
    REFUSE_UNLESS(graph && stream, INVALID_HANDLE);
    if (stream->state != NOT_CAPTURING) { stream->state = INVALIDATED; return CAPTURE_UNSUPPORTED; }
    for (int i = 0; i < graph->work.count; i++) {
        struct Thing *event = found(EVENT, (CUdeviceptr)graph->work.nodes[i].event);
        if (event) event->state = PENDING;
    }
    append(&stream->work, graph->work.nodes, graph->work.count);
    return SUCCESS;
}
static CUresult destroyed(enum Kind kind, Handle handle) {
    struct Thing *graph = found(kind, (CUdeviceptr)handle);
    REFUSE_UNLESS(graph, INVALID_VALUE);
    taken_back(graph);
    return SUCCESS;
}
CUresult cuGraphExecDestroy(Handle graph) { WORKS(0); return destroyed(EXEC, graph); }
CUresult cuGraphDestroy(Handle graph) { WORKS(0); return destroyed(GRAPH, graph); }

static CUresult explained(int code, const char **out, int name) {
    for (unsigned i = 0; i < sizeof EXPLAINED / sizeof *EXPLAINED; i++)
        if (EXPLAINED[i].code == code) { *out = name ? EXPLAINED[i].name : EXPLAINED[i].text; return SUCCESS; }
    *out = 0;
    return INVALID_VALUE;
}
CUresult cuGetErrorName(int code, const char **out) { return explained(code, out, 1); }
CUresult cuGetErrorString(int code, const char **out) { return explained(code, out, 0); }

/* ---- how they are found ----------------------------------------------------------------------------------------------- */

CUresult cuGetProcAddress_v2(const char *, void **, int, unsigned long long, int *);
static const struct { const char *name; void *function; int since; } EXPORTED[] = {
    {"cuInit", cuInit, 2000}, {"cuDriverGetVersion", cuDriverGetVersion, 2020}, {"cuDeviceGetCount", cuDeviceGetCount, 2000},
    {"cuDeviceGet", cuDeviceGet, 2000}, {"cuDeviceGetName", cuDeviceGetName, 2000},
    {"cuDeviceGetAttribute", cuDeviceGetAttribute, 2000}, {"cuDevicePrimaryCtxRetain", cuDevicePrimaryCtxRetain, 7000},
    {"cuDevicePrimaryCtxRelease", cuDevicePrimaryCtxRelease_v2, 11000}, {"cuCtxPushCurrent", cuCtxPushCurrent_v2, 4000},
    {"cuCtxPopCurrent", cuCtxPopCurrent_v2, 4000}, {"cuMemGetInfo", cuMemGetInfo_v2, 3020}, {"cuMemAlloc", cuMemAlloc_v2, 3020},
    {"cuMemFree", cuMemFree_v2, 3020}, {"cuMemHostAlloc", cuMemHostAlloc, 2020}, {"cuMemFreeHost", cuMemFreeHost, 2000},
    {"cuMemHostGetDevicePointer", cuMemHostGetDevicePointer_v2, 3020}, {"cuMemcpyHtoDAsync", cuMemcpyHtoDAsync_v2, 3020},
    {"cuMemcpyDtoHAsync", cuMemcpyDtoHAsync_v2, 3020}, {"cuMemcpyDtoDAsync", cuMemcpyDtoDAsync_v2, 3020},
    {"cuStreamCreate", cuStreamCreate, 2000}, {"cuStreamDestroy", cuStreamDestroy_v2, 4000},
    {"cuStreamSynchronize", cuStreamSynchronize, 2000}, {"cuEventCreate", cuEventCreate, 2000},
    {"cuEventDestroy", cuEventDestroy_v2, 4000}, {"cuEventRecord", cuEventRecord, 2000},
    {"cuEventRecordWithFlags", cuEventRecordWithFlags, 11010}, {"cuEventElapsedTime", cuEventElapsedTime, 2000},
    {"cuStreamBeginCapture", cuStreamBeginCapture_v2, 10010}, {"cuStreamEndCapture", cuStreamEndCapture, 10000},
    {"cuGraphInstantiateWithFlags", cuGraphInstantiateWithFlags, 11040}, {"cuGraphLaunch", cuGraphLaunch, 10000},
    {"cuGraphExecDestroy", cuGraphExecDestroy, 10000}, {"cuGraphDestroy", cuGraphDestroy, 10000},
    {"cuGetErrorName", cuGetErrorName, 6000}, {"cuGetErrorString", cuGetErrorString, 6000},
    {"cuGetProcAddress", cuGetProcAddress_v2, 12000},
};
CUresult cuGetProcAddress_v2(const char *name, void **out, int asked, unsigned long long flags, int *status) {
    (void)flags;
    *out = 0;
    if (status) *status = 1; /* not found */
    if (asked > version()) return INVALID_VALUE;
    for (unsigned i = 0; i < sizeof EXPORTED / sizeof *EXPORTED; i++)
        if (!strcmp(EXPORTED[i].name, name)) {
            if (asked >= EXPORTED[i].since) *out = EXPORTED[i].function;
            if (status) *status = *out ? 0 : 2; /* 2: the version asked for is too old */
        }
    return SUCCESS;
}
CUresult cuGetProcAddress(const char *name, void **out, int asked, unsigned long long flags) {
    CUresult code = cuGetProcAddress_v2(name, out, asked, flags, 0);
    return code ? code : *out ? SUCCESS : NOT_FOUND;
}

/* ---- the tests' own --------------------------------------------------------------------------------------------------- */

void double_fail(const char *name, int code) { LOCKED; functions[known(name)].fails = code; }
int double_calls(const char *name) { LOCKED; return functions[known(name)].calls; }
unsigned double_flags(const char *name) { LOCKED; return functions[known(name)].flags; }
void double_attribute(int attribute, int value) { LOCKED; attributes[attribute] = value; }
int double_depth(void) { return depth; }
void double_hold(int held) { holding = held; }
/* The names of all functions that were called since the last reset, one a line. */
void double_called(char *out, int length) {
    LOCKED;
    *out = 0;
    for (int i = 0; i < FUNCTIONS; i++)
        if (functions[i].calls) strncat(strncat(out, functions[i].name, length - strlen(out) - 1), "\n", length - strlen(out) - 1);
}
int double_alive(const char *kind) {
    LOCKED;
    int alive = 0;
    for (int i = 0; i < THINGS; i++) alive += things[i].kind != NONE && !strcmp(KINDS[things[i].kind], kind);
    for (int i = 0; i < GPUS && !strcmp(kind, "context"); i++) alive += retained[i];
    return alive;
}
/* Do a stream's work at once: for who computes on the host what a GPU would in the stream. */
void double_drain(Handle handle) {
    LOCKED;
    struct Thing *stream = found(STREAM, (CUdeviceptr)handle);
    if (stream) done(stream);
}
/* Forget everything but that cuInit was called. Other threads' stacks stay. */
void double_reset(void) {
    LOCKED;
    for (int i = 0; i < THINGS; i++) if (things[i].kind != NONE) taken_back(&things[i]);
    for (int i = 0; i < FUNCTIONS; i++) functions[i].calls = functions[i].fails = 0, functions[i].flags = 0;
    memset(retained, 0, sizeof retained);
    memset(attributes, 0, sizeof attributes);
    attributes[75] = 8, attributes[76] = 7; /* compute capability */
    attributes[19] = 1;                     /* maps host memory */
    depth = holding = 0;
}
__attribute__((constructor)) static void ready(void) { double_reset(); }
