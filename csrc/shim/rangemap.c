/*
 * Disjoint address ranges in order: an array of short sorted arrays, so that a look-up
 * is two binary searches in compact memory and an insertion moves a few kilobytes at
 * most. Locking is the caller's.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shim/arena.h"

#define LEAF_ROOM 256u

struct range {
    uint64_t base, size;
    void *value;
};

struct leaf {
    uint32_t count;
    struct range range[LEAF_ROOM];
};

struct fdc_ranges {
    struct leaf **leaf;
    uint64_t *first; /* base of each leaf's first range */
    size_t leaves, room, count;
};

struct fdc_ranges *
fdc_ranges_new(void)
{
    return calloc(1, sizeof(struct fdc_ranges));
}

void
fdc_ranges_delete(struct fdc_ranges *ranges)
{
    if (ranges == NULL)
        return;
    for (size_t i = 0; i < ranges->leaves; i++)
        free(ranges->leaf[i]);
    free(ranges->leaf);
    free(ranges->first);
    free(ranges);
}

size_t
fdc_ranges_count(const struct fdc_ranges *ranges)
{
    return ranges->count;
}

/* The last leaf whose first range begins at or before the address; 0 if none does. */
static size_t
leaf_of(const struct fdc_ranges *ranges, uint64_t address)
{
    size_t low = 0, high = ranges->leaves;

    while (high - low > 1) {
        size_t middle = (low + high) / 2;

        if (ranges->first[middle] <= address)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* How many ranges of the leaf begin at or before the address. */
static uint32_t
place_in(const struct leaf *leaf, uint64_t address)
{
    uint32_t low = 0, high = leaf->count;

    while (low < high) {
        uint32_t middle = (low + high) / 2;

        if (leaf->range[middle].base <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int
leaf_insert(struct fdc_ranges *ranges, size_t at, struct leaf *leaf)
{
    if (ranges->leaves == ranges->room) {
        size_t room = ranges->room ? ranges->room * 2 : 16;
        struct leaf **leaves = realloc(ranges->leaf, room * sizeof(*leaves));
        uint64_t *first;

        if (leaves == NULL)
            return -ENOMEM;
        ranges->leaf = leaves;
        first = realloc(ranges->first, room * sizeof(*first));
        if (first == NULL)
            return -ENOMEM;
        ranges->first = first;
        ranges->room = room;
    }
    memmove(&ranges->leaf[at + 1], &ranges->leaf[at],
            (ranges->leaves - at) * sizeof(*ranges->leaf));
    memmove(&ranges->first[at + 1], &ranges->first[at],
            (ranges->leaves - at) * sizeof(*ranges->first));
    ranges->leaf[at] = leaf;
    ranges->first[at] = leaf->count ? leaf->range[0].base : 0;
    ranges->leaves++;
    return 0;
}

int
fdc_ranges_add(struct fdc_ranges *ranges, uint64_t base, uint64_t size, void *value)
{
    uint64_t next_base;
    struct leaf *leaf;
    uint32_t place;
    size_t at;

    if (size == 0 || value == NULL || base + size < base)
        return -EINVAL;
    if (fdc_ranges_next(ranges, base, &next_base, NULL) != NULL &&
        next_base < base + size)
        return -EEXIST;

    if (ranges->leaves == 0) {
        leaf = calloc(1, sizeof(*leaf));
        if (leaf == NULL || leaf_insert(ranges, 0, leaf) != 0) {
            free(leaf);
            return -ENOMEM;
        }
    }
    at = leaf_of(ranges, base);
    leaf = ranges->leaf[at];
    if (leaf->count == LEAF_ROOM) {
        struct leaf *right = malloc(sizeof(*right));

        if (right == NULL)
            return -ENOMEM;
        right->count = LEAF_ROOM / 2;
        memcpy(right->range, &leaf->range[LEAF_ROOM / 2], sizeof(right->range) / 2);
        if (leaf_insert(ranges, at + 1, right) != 0) {
            free(right);
            return -ENOMEM;
        }
        leaf->count = LEAF_ROOM / 2;
        if (right->range[0].base <= base) {
            leaf = right;
            at++;
        }
    }
    place = place_in(leaf, base);
    memmove(&leaf->range[place + 1], &leaf->range[place],
            (leaf->count - place) * sizeof(leaf->range[0]));
    leaf->range[place] = (struct range){base, size, value};
    leaf->count++;
    ranges->first[at] = leaf->range[0].base;
    ranges->count++;
    return 0;
}

static const struct range *
range_find(const struct fdc_ranges *ranges, uint64_t address)
{
    const struct leaf *leaf;
    const struct range *range;
    uint32_t place;

    if (ranges->leaves == 0)
        return NULL;
    leaf = ranges->leaf[leaf_of(ranges, address)];
    place = place_in(leaf, address);
    if (place == 0)
        return NULL;
    range = &leaf->range[place - 1];
    return address - range->base < range->size ? range : NULL;
}

void *
fdc_ranges_find(const struct fdc_ranges *ranges, uint64_t address, uint64_t *base,
                uint64_t *size)
{
    const struct range *range = range_find(ranges, address);

    if (range == NULL)
        return NULL;
    if (base != NULL)
        *base = range->base;
    if (size != NULL)
        *size = range->size;
    return range->value;
}

void *
fdc_ranges_next(const struct fdc_ranges *ranges, uint64_t address, uint64_t *base,
                uint64_t *size)
{
    const struct range *range = range_find(ranges, address);

    if (range == NULL && ranges->count != 0) {
        size_t at = leaf_of(ranges, address);
        uint32_t place = place_in(ranges->leaf[at], address);

        if (place < ranges->leaf[at]->count)
            range = &ranges->leaf[at]->range[place];
        else if (at + 1 < ranges->leaves)
            range = &ranges->leaf[at + 1]->range[0];
    }
    if (range == NULL)
        return NULL;
    if (base != NULL)
        *base = range->base;
    if (size != NULL)
        *size = range->size;
    return range->value;
}

void *
fdc_ranges_del(struct fdc_ranges *ranges, uint64_t base)
{
    struct leaf *leaf;
    uint32_t place;
    void *value;
    size_t at;

    if (ranges->leaves == 0)
        return NULL;
    at = leaf_of(ranges, base);
    leaf = ranges->leaf[at];
    place = place_in(leaf, base);
    if (place == 0 || leaf->range[place - 1].base != base)
        return NULL;
    value = leaf->range[place - 1].value;
    memmove(&leaf->range[place - 1], &leaf->range[place],
            (leaf->count - place) * sizeof(leaf->range[0]));
    leaf->count--;
    ranges->count--;
    if (leaf->count == 0) {
        free(leaf);
        ranges->leaves--;
        memmove(&ranges->leaf[at], &ranges->leaf[at + 1],
                (ranges->leaves - at) * sizeof(*ranges->leaf));
        memmove(&ranges->first[at], &ranges->first[at + 1],
                (ranges->leaves - at) * sizeof(*ranges->first));
    } else {
        ranges->first[at] = leaf->range[0].base;
    }
    return value;
}
