/*
 * A thread waits for a large copy to the host. At a word of who started the program another
 * one waits for a small copy, which needs nothing of the large one, and says so when it has it.
 */
#include "app.h"

enum { WORDS = 1 << 20 }; /* half of what a session has on its way */

static CUcontext context;
static CUdeviceptr large;
static unsigned words[WORDS];

static void *
take_large(void *unused)
{
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuMemcpyDtoH(words, large, sizeof(words)));
    return unused;
}

int
main(void)
{
    unsigned wrong = 0, value = 0;
    CUdeviceptr small;
    pthread_t thread;
    int word;

    context = app_begin();
    CHECK(cuMemAlloc(&large, sizeof(words)));
    CHECK(cuMemAlloc(&small, sizeof(value)));
    CHECK(cuMemsetD32(large, 7, WORDS));
    CHECK(cuMemsetD32(small, 8, 1));
    CHECK(cuMemcpyDtoH(&value, small, sizeof(value)));
    REQUIRE(value == 8);
    CHECK(cuMemsetD32(small, 9, 1));
    pthread_create(&thread, NULL, take_large, NULL);
    do
        word = getchar();
    while (word != '\n' && word != EOF);
    CHECK(cuMemcpyDtoH(&value, small, sizeof(value)));
    REQUIRE(value == 9);
    puts("the small one is there");
    fflush(stdout);
    pthread_join(thread, NULL);
    for (unsigned i = 0; i < WORDS; i++)
        wrong += words[i] != 7;
    REQUIRE(wrong == 0);
    CHECK(cuMemFree(small));
    CHECK(cuMemFree(large));
    return app_end();
}
