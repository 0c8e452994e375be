/*
 * A session that does nothing between a first piece of work and a last one: it says "up",
 * waits for a line, computes again and says "done". A wrong result is status 3, a call
 * that fails status 4. bench/many.py has many of them at once.
 */
#include "session.h"

enum { SIZE = 1 << 20 };

static unsigned char back[SIZE];

static void
work(CUdeviceptr memory, unsigned char value)
{
    check(cuMemsetD8_v2(memory, value, SIZE), "cuMemsetD8");
    check(cuMemcpyDtoH_v2(back, memory, SIZE), "cuMemcpyDtoH");
    for (int i = 0; i < SIZE; i++)
        if (back[i] != value) {
            fprintf(stderr, "byte %d is %d and not %d\n", i, back[i], value);
            exit(3);
        }
}

int
main(void)
{
    CUdeviceptr memory = begin(SIZE);
    char line[16];

    work(memory, 7);
    say_up();
    if (fgets(line, sizeof(line), stdin) == NULL)
        return 0;
    work(memory, 9);
    puts("done");
    return 0;
}
