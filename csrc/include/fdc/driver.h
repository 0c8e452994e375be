/*
 * A driver library opened by its path: the real libcuda.so.1 or the CPU device. Only
 * driver/ opens such a library; everybody else calls through the table.
 */
#ifndef FDC_DRIVER_H
#define FDC_DRIVER_H

#include "driver_calls.h"               /* generated: struct fdc_driver */

/* Opens the library and fills the table; what the library lacks stays NULL. Does not
 * initialise it. Returns 0, -ENOENT (cannot be opened) or -ENOEXEC (is no driver). */
int fdc_driver_load(const char *path, struct fdc_driver *driver);
/* Closes what load opened; safe on a zeroed table. The table is zeroed. */
void fdc_driver_unload(struct fdc_driver *driver);

#endif
