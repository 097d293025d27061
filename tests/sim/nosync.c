/* Preloaded: a program that forgets what NOSYNC names: all, directories, files or database, which
 * is what SQLite asks for. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int is(const char *kind) {
    const char *forgotten = getenv("NOSYNC");
    return forgotten && (!strcmp(forgotten, kind) || !strcmp(forgotten, "all"));
}

int fsync(int file) {
    struct stat what;
    if (!fstat(file, &what) && is(S_ISDIR(what.st_mode) ? "directories" : "files")) return 0;
    return (int)syscall(SYS_fsync, file);
}

int fdatasync(int file) {
    return is("database") ? 0 : (int)syscall(SYS_fdatasync, file);
}
