/*
 * Images of code: what kind they are and how long (nobody says), files that hold them,
 * and their way to the worker, which checks the hash. Also the options of the JIT
 * compiler.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "code.h"
#include "memory.h"

#define WRAPPER_MAGIC 0x466243b1u
#define FATBIN_MAGIC 0xba55ed50u
#define IMAGE_MAX (1ull << 30)

static uint64_t
fatbin_size(const void *image)
{
    uint16_t head;
    uint64_t rest;

    memcpy(&head, (const char *)image + 6, sizeof(head));
    memcpy(&rest, (const char *)image + 8, sizeof(rest));
    return rest > IMAGE_MAX ? 0 : head + rest;
}

static uint64_t
larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* The end of the last thing that the headers of the ELF file speak of. */
static uint64_t
elf_size(const void *image)
{
    const Elf64_Ehdr *head = image;
    uint64_t end = sizeof(*head);

    /* Before offsets are followed: whether it is one, and not some memory that begins so. */
    if (head->e_ident[EI_CLASS] != ELFCLASS64 ||
        head->e_ident[EI_DATA] != ELFDATA2LSB ||
        head->e_ident[EI_VERSION] != EV_CURRENT || head->e_ehsize != sizeof(*head))
        return 0;
    if (head->e_phoff > IMAGE_MAX || head->e_shoff > IMAGE_MAX)
        return 0;
    if (head->e_phnum != 0)
        end = larger(end, head->e_phoff + (uint64_t)head->e_phnum * head->e_phentsize);
    if (head->e_shnum != 0)
        end = larger(end, head->e_shoff + (uint64_t)head->e_shnum * head->e_shentsize);
    if (end > IMAGE_MAX ||
        (head->e_shnum != 0 && head->e_shentsize < sizeof(Elf64_Shdr)))
        return 0;
    for (unsigned i = 0; i < head->e_shnum; i++) {
        Elf64_Shdr section;

        memcpy(&section,
               (const char *)image + head->e_shoff + (uint64_t)i * head->e_shentsize,
               sizeof(section));
        if (section.sh_type != SHT_NOBITS && section.sh_size <= IMAGE_MAX &&
            section.sh_offset <= IMAGE_MAX)
            end = larger(end, section.sh_offset + section.sh_size);
    }
    return end;
}

/* A copy of all the fat binaries that a wrapper names, since its addresses mean nothing
 * elsewhere: data is the linked one, each of aux a unit's. */
static CUresult
units_copy(const void *data, const void *const *aux, struct fdc_image *found)
{
    uint64_t count = 1, at, size;
    struct fdc_units *units;
    uint32_t magic;

    while (count <= FDC_UNITS_MAX && aux[count - 1] != NULL)
        count++;
    if (count > FDC_UNITS_MAX)
        return CUDA_ERROR_INVALID_IMAGE;
    at = size = sizeof(*units) + count * sizeof(units->unit[0]);
    for (uint64_t i = 0; i < count; i++) {
        const void *unit = i == 0 ? data : aux[i - 1];

        memcpy(&magic, unit, sizeof(magic));
        if (magic != FATBIN_MAGIC || fatbin_size(unit) == 0)
            return CUDA_ERROR_INVALID_IMAGE;
        size += FDC_ALIGN_UP(fatbin_size(unit), 8ull);
        if (size > IMAGE_MAX)
            return CUDA_ERROR_INVALID_IMAGE;
    }
    units = calloc(1, size);
    if (units == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    units->count = (uint32_t)count;
    for (uint64_t i = 0; i < count; i++) {
        const void *unit = i == 0 ? data : aux[i - 1];

        units->unit[i].offset = at;
        units->unit[i].size = fatbin_size(unit);
        memcpy((char *)units + at, unit, units->unit[i].size);
        at += FDC_ALIGN_UP(units->unit[i].size, 8ull);
    }
    found->bytes = found->owned = units;
    found->size = size;
    found->kind = FDC_IMAGE_UNITS;
    return CUDA_SUCCESS;
}

CUresult
fdc_image_look(const void *image, struct fdc_image *found)
{
    struct {
        uint32_t magic, version;
        const void *data;
        const void *const *aux; /* version 2: each unit's, NULL at the end */
    } wrapper;
    uint32_t magic;

    memset(found, 0, sizeof(*found));
    if (image == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    /* A text of less than four bytes is no program, but may end a page. */
    for (int i = 0; i < 4; i++) {
        ((char *)&magic)[i] = ((const char *)image)[i];
        if (((const char *)image)[i] == '\0')
            break;
    }
    found->bytes = image;
    if (*(const char *)image == '\0')
        return CUDA_ERROR_INVALID_IMAGE;
    if (memcmp(image, &(uint32_t){WRAPPER_MAGIC}, 1) == 0 && magic == WRAPPER_MAGIC) {
        memcpy(&wrapper, image, sizeof(wrapper));
        if (wrapper.data == NULL)
            return CUDA_ERROR_INVALID_IMAGE;
        if (wrapper.version >= 2 && wrapper.aux != NULL && wrapper.aux[0] != NULL)
            return units_copy(wrapper.data, wrapper.aux, found);
        found->bytes = wrapper.data;
        memcpy(&magic, wrapper.data, sizeof(magic));
    }
    if (magic == FATBIN_MAGIC) {
        found->kind = FDC_IMAGE_FATBIN;
        found->size = fatbin_size(found->bytes);
    } else if (memcmp(&magic, ELFMAG, SELFMAG) == 0) {
        found->kind = FDC_IMAGE_CUBIN;
        found->size = elf_size(found->bytes);
    } else {
        found->kind = FDC_IMAGE_PTX;
        found->size = strlen(found->bytes) + 1;
    }
    return found->size != 0 && found->size <= IMAGE_MAX ? CUDA_SUCCESS
                                                        : CUDA_ERROR_INVALID_IMAGE;
}

CUresult
fdc_file_read(const char *path, struct fdc_image *found)
{
    CUresult result = CUDA_ERROR_FILE_NOT_FOUND;
    struct stat about;
    size_t have = 0;
    char *bytes;
    int fd;

    memset(found, 0, sizeof(*found));
    if (path == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return CUDA_ERROR_FILE_NOT_FOUND;
    if (fstat(fd, &about) != 0 || !S_ISREG(about.st_mode) ||
        (uint64_t)about.st_size > IMAGE_MAX)
        goto out_close;
    /* Zeroes behind the end: text ends there, headers of a cut file say nothing odd. */
    bytes = calloc(1, (size_t)about.st_size + 128);
    if (bytes == NULL) {
        result = CUDA_ERROR_OUT_OF_MEMORY;
        goto out_close;
    }
    while (have < (size_t)about.st_size) {
        ssize_t got = read(fd, bytes + have, (size_t)about.st_size - have);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        have += (size_t)got;
    }
    found->bytes = found->owned = bytes;
    found->size = have;
    result = CUDA_SUCCESS;
out_close:
    close(fd);
    return result;
}

CUresult
fdc_image_read(const char *path, struct fdc_image *found)
{
    struct fdc_image file;
    CUresult result;

    result = fdc_file_read(path, &file);
    if (result != CUDA_SUCCESS)
        return result;
    *found = file;
    if (file.size < 16 || memcmp(file.bytes, &(uint32_t){WRAPPER_MAGIC}, 4) == 0) {
        /* The address in a wrapper means nothing in a file. */
        result = CUDA_ERROR_INVALID_IMAGE;
    } else if (memcmp(file.bytes, ELFMAG, SELFMAG) == 0) {
        /* A file says its length; headers that lie would be read past it. */
        found->kind = FDC_IMAGE_CUBIN;
    } else if (memcmp(file.bytes, &(uint32_t){WRAPPER_MAGIC}, 4) == 0) {
        result = CUDA_ERROR_INVALID_IMAGE; /* addresses in a file */
    } else {
        result = fdc_image_look(file.bytes, found);
        if (result == CUDA_SUCCESS &&
            (found->bytes != file.bytes || found->size > file.size + 1))
            result = CUDA_ERROR_INVALID_IMAGE;
        found->owned = file.owned;
    }
    if (result != CUDA_SUCCESS) {
        free(file.owned);
        found->owned = NULL;
    }
    return result;
}

/* Of a call made of several messages: its context and thread, another id. */
CUresult
fdc_image_announce(struct fdc_call *call, const void *bytes, uint64_t size,
                   uint64_t *number)
{
    struct fdc_codes *codes = call->session->codes;
    struct fdc_req_fdcImageBegin *req;
    struct fdc_digest digest;
    CUresult result;

    *number = __atomic_add_fetch(&codes->images, 1, __ATOMIC_RELAXED);
    fdc_sha256(bytes, size, digest.bytes);
    call->id = FDC_ID_fdcImageBegin;
    req = fdc_call_begin(call, sizeof(*req));
    if (req == NULL)
        return call->result;
    req->image = *number;
    req->size = size;
    req->sha256 = digest;
    result = fdc_call_send(call);
    __atomic_add_fetch(&codes->bytes, size, __ATOMIC_RELAXED);
    if (result == CUDA_SUCCESS && fdc_load_relaxed(&codes->uncached))
        result = fdc_image_send(call, *number, bytes, size);
    return result;
}

CUresult
fdc_image_send(struct fdc_call *call, uint64_t number, const void *bytes, uint64_t size)
{
    struct fdc_session *session = call->session;
    struct fdc_ticket *ticket;
    struct fdc_chunk chunk;
    CUresult result;
    uint64_t put;
    int err;

    __atomic_add_fetch(&session->codes->sent, size, __ATOMIC_RELAXED);
    call->id = FDC_ID_fdcImageChunk;
    for (uint64_t at = 0; at < size;) {
        uint64_t part = size - at < FDC_PIECE_MAX ? size - at : FDC_PIECE_MAX;
        struct fdc_req_fdcImageChunk *req;

        result = fdc_up_new(session, part, &chunk, &ticket);
        if (result != CUDA_SUCCESS)
            goto err_drop;
        err = fdc_link_put(session->link, FDC_REGION_UP, chunk.offset,
                           (const char *)bytes + at, part, &put);
        req = err == 0 ? fdc_call_begin(call, sizeof(*req)) : NULL;
        if (req == NULL) {
            fdc_up_cancel(session, ticket);
            result = err ? fdc_result(err) : call->result;
            goto err_drop;
        }
        req->image = number;
        req->offset = at;
        req->chunk = chunk;
        fdc_call_uses_put(call, put);
        result = fdc_call_send_done(call, ticket);
        if (result != CUDA_SUCCESS) {
            fdc_up_cancel(session, ticket);
            goto err_drop;
        }
        at += part;
    }
    return CUDA_SUCCESS;

err_drop:
    fdc_image_drop(call, number);
    return result;
}

void
fdc_image_drop(struct fdc_call *call, uint64_t number)
{
    struct fdc_req_fdcImageDrop *req;

    call->id = FDC_ID_fdcImageDrop;
    req = fdc_call_begin(call, sizeof(*req));
    if (req == NULL)
        return;
    req->image = number;
    (void)fdc_call_send(call);
}

/* ---- options ---- */

static bool
travels(CUjit_option option)
{
    switch (option) {
    case CU_JIT_MAX_REGISTERS:
    case CU_JIT_THREADS_PER_BLOCK:
    case CU_JIT_OPTIMIZATION_LEVEL:
    case CU_JIT_TARGET_FROM_CUCONTEXT:
    case CU_JIT_TARGET:
    case CU_JIT_FALLBACK_STRATEGY:
    case CU_JIT_GENERATE_DEBUG_INFO:
    case CU_JIT_LOG_VERBOSE:
    case CU_JIT_GENERATE_LINE_INFO:
    case CU_JIT_CACHE_MODE:
    case CU_JIT_LTO:
    case CU_JIT_FTZ:
    case CU_JIT_PREC_DIV:
    case CU_JIT_PREC_SQRT:
    case CU_JIT_FMA:
    case CU_JIT_OPTIMIZE_UNUSED_DEVICE_VARIABLES:
    case CU_JIT_POSITION_INDEPENDENT_CODE:
    case CU_JIT_MIN_CTA_PER_SM:
    case CU_JIT_MAX_THREADS_PER_BLOCK:
    case CU_JIT_OVERRIDE_DIRECTIVE_VALUES:
        return true;
    default:
        return false;
    }
}

CUresult
fdc_jit_read(unsigned int count, const CUjit_option *options, void **values,
             struct fdc_jit *jit)
{
    static uint32_t said;

    memset(jit, 0, sizeof(*jit));
    if (count != 0 && (options == NULL || values == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    for (unsigned int i = 0; i < count; i++) {
        uint64_t value = (uint64_t)(uintptr_t)values[i];

        switch ((int)options[i]) {
        case CU_JIT_WALL_TIME:
            jit->wall = &values[i];
            break;
        case CU_JIT_INFO_LOG_BUFFER:
            jit->info = values[i];
            break;
        case CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES:
            jit->info_room = (unsigned int)value;
            jit->info_size = &values[i];
            break;
        case CU_JIT_ERROR_LOG_BUFFER:
            jit->error = values[i];
            break;
        case CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES:
            jit->error_room = (unsigned int)value;
            jit->error_size = &values[i];
            break;
        case CU_JIT_GLOBAL_SYMBOL_NAMES:
        case CU_JIT_GLOBAL_SYMBOL_ADDRESSES:
            if (value != 0)
                return fdc_refuse("CU_JIT_GLOBAL_SYMBOL_...", &said);
            break;
        default:
            if ((unsigned int)options[i] >= CU_JIT_NUM_OPTIONS)
                return CUDA_ERROR_INVALID_VALUE;
            if (!travels(options[i]))
                break;
            if (jit->count == FDC_JIT_OPTIONS_MAX)
                return CUDA_ERROR_INVALID_VALUE;
            jit->wire[jit->count].option = (uint32_t)options[i];
            /* Numbers are given as void *: the low half of the word counts. */
            jit->wire[jit->count].value = value & 0xffffffffu;
            jit->count++;
            break;
        }
    }
    return CUDA_SUCCESS;
}

static void
log_store(char *buffer, unsigned int room, void **told, const char *log, uint32_t size)
{
    unsigned int used = 0;

    if (buffer != NULL && room != 0) {
        used = log == NULL ? 0 : (unsigned int)strnlen(log, size);
        if (used > room - 1)
            used = room - 1;
        if (used != 0)
            memcpy(buffer, log, used);
        buffer[used] = '\0';
    }
    if (told != NULL)
        *told = (void *)(uintptr_t)used;
}

void
fdc_jit_logs(const struct fdc_jit *jit, const char *info, uint32_t info_size,
             const char *error, uint32_t error_size)
{
    log_store(jit->info, jit->info_room, jit->info_size, info, info_size);
    log_store(jit->error, jit->error_room, jit->error_size, error, error_size);
    if (jit->wall != NULL)
        *jit->wall = NULL; /* 0.0f: it is not measured */
}
