/* made by csrc/specgen from csrc/spec/; do not edit */
/* Calls that the areas serve by hand. The message's size is checked, its spans are
 * not. 0 (answered, kept, or nothing to answer) or -EPROTO: the message lies. */
#ifndef FDC_SERVER_HOOKS_H
#define FDC_SERVER_HOOKS_H

#include "server/server.h"


#endif
