/* How a box of bytes is cut into parts that fit a chunk: whoever knows the box and the room
 * cuts alike. */
#include "fdc/copy.h"

bool
fdc_part_cut(uint64_t room, uint64_t width, uint64_t height, uint64_t depth,
             struct fdc_part *part)
{
    if (part->width == 0) { /* the first */
        part->x = part->y = part->z = 0;
    } else if (part->x + part->width < width) {
        part->x += part->width;
    } else if (part->y + part->height < height) {
        part->x = 0;
        part->y += part->height;
    } else {
        part->x = part->y = 0;
        part->z += part->depth;
        if (part->z >= depth)
            return false;
    }
    part->width = width < room ? width : room;
    part->height = room / part->width;
    if (part->height > height)
        part->height = height;
    part->depth = part->width == width && part->height == height
                      ? room / (part->width * part->height)
                      : 1;
    if (part->x + part->width > width)
        part->width = width - part->x;
    if (part->y + part->height > height)
        part->height = height - part->y;
    if (part->depth > depth - part->z)
        part->depth = depth - part->z;
    return true;
}
