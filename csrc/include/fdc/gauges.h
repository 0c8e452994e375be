/*
 * A driver's figures: from the NVML library beside a real driver, from the CPU device
 * itself. Only driver/ opens the one and knows the other.
 */
#ifndef FDC_GAUGES_H
#define FDC_GAUGES_H

#include <stdbool.h>

#include "fdc/driver.h"
#include "fdc/monitor.h"

struct fdc_gauges;

struct fdc_gauges *fdc_gauges_new(const struct fdc_driver *driver);     /* or NULL */
void fdc_gauges_free(struct fdc_gauges *gauges);
/* From now on the driver keeps the device's busy time there; NULL: no longer. false: it
 * cannot. */
bool fdc_gauges_busy(struct fdc_gauges *gauges, int ordinal, struct fdc_busy *where);
/* Bytes that this process has on the device, all told; false: the driver does not say.
 * slow: it takes long, about a millisecond. Any thread. */
bool fdc_gauges_taken(struct fdc_gauges *gauges, int ordinal, const char *pci,
                      uint64_t *bytes, bool *slow);
/* Fills in what is known of the device at this place on the bus. Slow: it asks the driver,
 * and opens NVML the first time. Any thread. */
void fdc_gauges_read(struct fdc_gauges *gauges, const char *pci,
                     struct fdc_monitor_gpu *out);

struct fdc_gauges_shares {
    uint32_t pid, shares; /* of a process of the server's machine */
};
/* What NVML says of processes; how many. */
unsigned int fdc_gauges_processes(struct fdc_gauges *gauges, const char *pci,
                                  struct fdc_gauges_shares *out, unsigned int room);

#endif
