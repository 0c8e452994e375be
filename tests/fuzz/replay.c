/* Runs a target on files, one process for each: `replay_ptx FILE...`. */
#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fuzz.h"

enum { SECONDS = 60 };

static int
replay(const char *path)
{
    FILE *file = fopen(path, "rb");
    uint8_t *bytes = NULL;
    size_t size = 0, room = 0, got;

    if (file == NULL) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return 1;
    }
    do {
        room = room != 0 ? 2 * room : 4096;
        bytes = realloc(bytes, room);
        if (bytes == NULL)
            return 1;
        got = fread(bytes + size, 1, room - size, file);
        size += got;
    } while (size == room);
    fclose(file);
    /* to the byte, so that what is read behind the end is noticed */
    bytes = realloc(bytes, size != 0 ? size : 1);
    LLVMFuzzerTestOneInput(bytes, size);
    free(bytes);
    return 0;
}

int
main(int argc, char **argv)
{
    int failed = 0;

    for (int i = 1; i < argc; i++) {
        int status = 0;
        pid_t child = fork();

        if (child == 0) {
            alarm(SECONDS);
            _exit(replay(argv[i]));
        }
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
            fprintf(stderr, "FAILED %s: status 0x%x\n", argv[i], (unsigned int)status);
            failed = 1;
        }
    }
    return failed;
}
