/* Whether the rdma road can be taken. The road itself is behind transport.h. */
#ifndef FDC_RDMA_H
#define FDC_RDMA_H

#include "fdc/transport.h"

/* Loads UCX. 0, or -errno and why not, in words. */
int fdc_rdma_probe(char *why, size_t room);
/* True where this machine has an RDMA device, whatever library there is. */
bool fdc_rdma_device(void);
/*
 * As fdc_link_client(), and says why not in words, not in the log; the worker's reason, if
 * it is one of the worker's. Waits until something has come and gone over the road itself.
 */
int fdc_rdma_client(int sock, struct fdc_link **link, char *why, size_t room);

#endif
