/* Loaded before everything else (LD_PRELOAD), kills the process right before the system call
 * number EDGED_TEST_KILL_AT, counted from 1 over all threads, of those that change something below
 * the directory EDGED_TEST_KILL_BELOW. It says which one that was in the file EDGED_TEST_KILL_LOG.
 * It counts calls of the C library, so it reaches whatever a daemon in Python or SQLite does.
 */

#define _GNU_SOURCE

#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_long calls;

static int is_below(const char* path) {
  const char* below = getenv("EDGED_TEST_KILL_BELOW");
  return below != NULL && path != NULL && strncmp(path, below, strlen(below)) == 0;
}

static void say(const char* what, const char* path) {
  const char* log = getenv("EDGED_TEST_KILL_LOG");
  if (log == NULL) return;
  const long file = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT, 0644);
  char line[PATH_MAX + 64];
  const int length = snprintf(line, sizeof line, "%s %s\n", what, path);
  if (file >= 0 && length > 0) syscall(SYS_write, file, line, (size_t)length);
  if (file >= 0) syscall(SYS_close, file);
}

static void count(const char* what, const char* path) {
  if (!is_below(path)) return;
  const char* at = getenv("EDGED_TEST_KILL_AT");
  if (at == NULL || atomic_fetch_add(&calls, 1) + 1 != atol(at)) return;
  say(what, path);
  kill(getpid(), SIGKILL);
}

static void count_file(const char* what, int file) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  const ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return;
  path[length] = '\0';
  count(what, path);
}

static void count_at(const char* what, int directory, const char* name) {
  if (name[0] == '/' || directory == AT_FDCWD) {
    count(what, name);
  } else {
    count_file(what, directory);
  }
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int rename(const char* from, const char* to) {
  count("rename", to);
  return REAL(rename)(from, to);
}

int unlink(const char* path) {
  count("unlink", path);
  return REAL(unlink)(path);
}

int unlinkat(int directory, const char* path, int flags) {
  count_at("unlinkat", directory, path);
  return REAL(unlinkat)(directory, path, flags);
}

int rmdir(const char* path) {
  count("rmdir", path);
  return REAL(rmdir)(path);
}

int mkdir(const char* path, mode_t mode) {
  count("mkdir", path);
  return REAL(mkdir)(path, mode);
}

int fsync(int file) {
  count_file("fsync", file);
  return REAL(fsync)(file);
}

int fdatasync(int file) {
  count_file("fdatasync", file);
  return REAL(fdatasync)(file);
}

int ftruncate64(int file, off64_t length) {
  count_file("ftruncate", file);
  return REAL(ftruncate64)(file, length);
}

ssize_t write(int file, const void* data, size_t length) {
  count_file("write", file);
  return REAL(write)(file, data, length);
}

ssize_t pwrite64(int file, const void* data, size_t length, off64_t offset) {
  count_file("pwrite", file);
  return REAL(pwrite64)(file, data, length, offset);
}

int open64(const char* path, int flags, ...) {
  mode_t mode = 0;
  if (flags & O_CREAT) {
    va_list arguments;
    va_start(arguments, flags);
    mode = va_arg(arguments, mode_t);
    va_end(arguments);
    count("open", path);
  }
  return REAL(open64)(path, flags, mode);
}
