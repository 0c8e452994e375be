/*
 * The reader of PTX alone: texts are read, linked with each other and given back, and no
 * kernel is decoded. What ptx.c finds behind the reader would else take most of the time.
 */
#define PTX_READ_ONLY
#include "ptx.c"
