/* Loaded into a daemon by tests (LD_PRELOAD): what it tells the kernel of some files is written to a log, in order:
 * writes, lengths, syncs that came back, removals. A record: kind, length of the name, place, size; the name; the bytes. Units
 * are started with a clean environment, so it is the daemon alone that is listened to. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, LENGTH, SYNC, GONE };
struct head { uint32_t kind, name; uint64_t at, size; };

static const char *prefix;
static int out = -1;
static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void load(void) {
    const char *path = getenv("PANDO_WRITES");
    prefix = getenv("PANDO_WRITES_OF");
    if (path && prefix) out = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
}

/* The file's name if it is one to listen to. */
static const char *ours(int fd, char *room, size_t size) {
    char link[64];
    if (out < 0 || fd == out) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, room, size - 1);
    if (length < 0) return 0;
    room[length] = 0;
    return strncmp(room, prefix, strlen(prefix)) ? 0 : strrchr(room, '/') + 1;
}

static void tell(uint32_t kind, const char *name, uint64_t at, const void *bytes, uint64_t size) {
    struct head head = { kind, (uint32_t)strlen(name), at, size };
    struct iovec parts[3] = { { &head, sizeof head }, { (void *)name, head.name }, { (void *)bytes, bytes ? size : 0 } };
    if (writev(out, parts, 3) < 0) abort();
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) {
    char room[4096];
    const char *name = ours(fd, room, sizeof room);
    if (!name) return REAL(pwrite64)(fd, bytes, size, at);
    pthread_mutex_lock(&order);
    ssize_t done = REAL(pwrite64)(fd, bytes, size, at);
    if (done > 0) tell(WRITE, name, at, bytes, done);
    pthread_mutex_unlock(&order);
    return done;
}

int ftruncate64(int fd, off64_t size) {
    char room[4096];
    const char *name = ours(fd, room, sizeof room);
    if (!name) return REAL(ftruncate64)(fd, size);
    pthread_mutex_lock(&order);
    int done = REAL(ftruncate64)(fd, size);
    if (done == 0) tell(LENGTH, name, size, 0, 0);
    pthread_mutex_unlock(&order);
    return done;
}

static int synced(int fd, int (*real)(int)) {
    char room[4096];
    const char *name = ours(fd, room, sizeof room);
    if (!name) return real(fd);
    /* What is written meanwhile by another thread may or may not be covered: nobody writes meanwhile. */
    pthread_mutex_lock(&order);
    int done = real(fd);
    if (done == 0) tell(SYNC, name, 0, 0, 0);
    pthread_mutex_unlock(&order);
    return done;
}

int fsync(int fd) { return synced(fd, REAL(fsync)); }
int fdatasync(int fd) { return synced(fd, REAL(fdatasync)); }

int unlink(const char *path) {
    pthread_mutex_lock(&order);
    int done = REAL(unlink)(path);
    if (done == 0 && out >= 0 && !strncmp(path, prefix, strlen(prefix))) tell(GONE, strrchr(path, '/') + 1, 0, 0, 0);
    pthread_mutex_unlock(&order);
    return done;
}
