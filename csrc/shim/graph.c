/* Graphs. */
#include <stdlib.h>
#include <string.h>

#include "code.h"
#include "memory.h"
#include "cuda_calls.h"

void *
fdc_graph_new(struct fdc_session *session, struct fdc_context *context)
{
    return fdc_object_new(session, FDC_KIND_GRAPH, sizeof(struct fdc_object), context);
}
