/* Whether the rdma road can be taken from here. The road itself is behind transport.h. */
#ifndef FDC_RDMA_H
#define FDC_RDMA_H

#include "fdc/base.h"

/* Loads UCX. 0, or -errno and why not, in words. */
int fdc_rdma_probe(char *why, size_t room);
/* True where this machine has an RDMA device, whatever library there is. */
bool fdc_rdma_device(void);

#endif
