/* Loaded into the daemon by tests (LD_PRELOAD): the n-th call of one kind fails. What and when stands in a file that
 * is shared with the test: kind, countdown, errno, calls of each kind so far. Units are started with a clean
 * environment, so it is the daemon alone that is struck. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

enum { FSYNC = 1, FDATASYNC, WRITE, PWRITE, RENAME, UNLINK, KINDS };
struct plan { int kind, countdown, error, calls[KINDS]; };
static struct plan *plan;

__attribute__((constructor)) static void load(void) {
    const char *path = getenv("PANDO_FAULTS");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file >= 0) {
        void *at = mmap(0, sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (at != MAP_FAILED) plan = at;
        close(file);
    }
}

static int strikes(int kind) {
    if (!plan) return 0;
    __atomic_add_fetch(&plan->calls[kind], 1, __ATOMIC_SEQ_CST);
    if (plan->kind != kind || __atomic_sub_fetch(&plan->countdown, 1, __ATOMIC_SEQ_CST) != 0) return 0;
    errno = plan->error;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int fsync(int fd) { return strikes(FSYNC) ? -1 : REAL(fsync)(fd); }
int fdatasync(int fd) { return strikes(FDATASYNC) ? -1 : REAL(fdatasync)(fd); }
ssize_t pwrite64(int fd, const void *at, size_t size, off64_t where) {
    /* Half is written, then nothing more: what a full disk does. */
    if (strikes(PWRITE)) { if (size > 1) REAL(pwrite64)(fd, at, size / 2, where); errno = plan->error; return -1; }
    return REAL(pwrite64)(fd, at, size, where);
}
ssize_t write(int fd, const void *at, size_t size) {
    if (fd > 2 && size > 64 && strikes(WRITE)) { REAL(write)(fd, at, size / 2); errno = plan->error; return -1; }
    return REAL(write)(fd, at, size);
}
int rename(const char *from, const char *to) { return strikes(RENAME) ? -1 : REAL(rename)(from, to); }
int unlink(const char *path) { return strikes(UNLINK) ? -1 : REAL(unlink)(path); }
