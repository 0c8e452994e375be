/* After fork() the child gets a clear answer and the parent goes on; exit order is free. */
#include <sys/wait.h>

#include "app.h"

static void
late(void)
{
    size_t free_bytes, total;

    (void)cuMemGetInfo(&free_bytes, &total);    /* any answer, no crash */
}

int
main(void)
{
    CUmodule module = NULL;
    CUfunction fill;
    CUdeviceptr p;
    int status = 0;
    pid_t child;

    atexit(late);
    app_begin();
    fill = app_function(&module, "fill");
    CHECK(cuMemAlloc(&p, 4096));
    CHECK(app_fill(fill, p, 5, 1024, NULL));
    fflush(stdout);
    child = fork();
    if (child == 0) {
        CUdeviceptr q;
        CUresult result = cuMemAlloc(&q, 16);

        printf("child: %s\n", app_error(result));
        fflush(stdout);
        _exit(result == CUDA_ERROR_NOT_INITIALIZED ? 0 : 1);
    }
    REQUIRE(waitpid(child, &status, 0) == child && status == 0);
    REQUIRE(app_count_wrong(p, 5, 1024) == 0);
    return app_end();
}
