/* Matrix operations of a warp. */
#include "decode.h"
#include "vm.h"

bool dec_matrix(struct dec *d);
bool
dec_matrix(struct dec *d)
{
    (void)d;
    return false;
}

#define NOT_YET(name)                                                                        \
    FDCPU_HANDLER(fdcpu_op_##name);                                                          \
    FDCPU_HANDLER(fdcpu_op_##name)                                                           \
    {                                                                                        \
        fdcpu_fault_at(x, i, -1, 801, #name);                                                \
        FDCPU_STOP(i, WHY_FAULT);                                                            \
    }
NOT_YET(mma)
NOT_YET(wmma_load)
NOT_YET(wmma_store)
NOT_YET(ldmatrix)
NOT_YET(stmatrix)
NOT_YET(movmatrix)
