/* Fails the n-th open, write, fsync, rename, mkdir or truncate beneath a folder: preloaded by tests/faults.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[PATH_MAX];
static long left, seen;
static int error, for_ever;

/* Fail the n-th call from now on (0: none), and with `lasting` every later one too. */
void faults_arm(const char *folder, long n, int number, int lasting) {
    strncpy(root, folder, sizeof root - 1);
    left = n; seen = 0; error = number; for_ever = lasting;
}
long faults_seen(void) { return seen; }

static int within(const char *path) {
    char here[PATH_MAX];
    if (!root[0] || !path) return 0;
    if (path[0] != '/') return getcwd(here, sizeof here) && strncmp(here, root, strlen(root)) == 0;
    return strncmp(path, root, strlen(root)) == 0;
}
static int due(const char *path) {
    if (!within(path)) return 0;
    long number = __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
    if (left && (number == left || (for_ever && number > left))) { errno = error; return 1; }
    return 0;
}
static int due_fd(int fd) {
    char link[64], path[PATH_MAX];
    if (!root[0]) return 0;
    int kept = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    errno = kept;
    if (n < 0) return 0;
    path[n] = 0;
    return due(path);
}
#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define MODE int mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list a; va_start(a, flags); mode = va_arg(a, int); va_end(a); }
#define WRITES (flags & (O_WRONLY | O_RDWR | O_CREAT))

int open(const char *path, int flags, ...) { MODE if (WRITES && due(path)) return -1; return NEXT(open)(path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE if (WRITES && due(path)) return -1; return NEXT(open64)(path, flags, mode); }
int openat(int fd, const char *path, int flags, ...) { MODE if (WRITES && due(path)) return -1; return NEXT(openat)(fd, path, flags, mode); }
int openat64(int fd, const char *path, int flags, ...) { MODE if (WRITES && due(path)) return -1; return NEXT(openat64)(fd, path, flags, mode); }
FILE *fopen(const char *path, const char *how) { if (how[0] != 'r' && due(path)) return NULL; return NEXT(fopen)(path, how); }
FILE *fopen64(const char *path, const char *how) { if (how[0] != 'r' && due(path)) return NULL; return NEXT(fopen64)(path, how); }
ssize_t write(int fd, const void *data, size_t n) { if (due_fd(fd)) return -1; return NEXT(write)(fd, data, n); }
ssize_t writev(int fd, const struct iovec *v, int n) { if (due_fd(fd)) return -1; return NEXT(writev)(fd, v, n); }
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) { if (due_fd(fd)) return -1; return NEXT(pwrite64)(fd, data, n, at); }
int fsync(int fd) { if (due_fd(fd)) return -1; return NEXT(fsync)(fd); }
int fdatasync(int fd) { if (due_fd(fd)) return -1; return NEXT(fdatasync)(fd); }
int rename(const char *a, const char *b) { if (due(b)) return -1; return NEXT(rename)(a, b); }
int renameat(int f, const char *a, int g, const char *b) { if (due(b)) return -1; return NEXT(renameat)(f, a, g, b); }
int mkdir(const char *path, mode_t mode) { if (due(path)) return -1; return NEXT(mkdir)(path, mode); }
int truncate64(const char *path, off64_t n) { if (due(path)) return -1; return NEXT(truncate64)(path, n); }
int ftruncate64(int fd, off64_t n) { if (due_fd(fd)) return -1; return NEXT(ftruncate64)(fd, n); }
