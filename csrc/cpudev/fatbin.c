/*
 * Finds PTX in what programs hand over as code: fat binary wrappers, fat binaries
 * (plain or compressed), files that cuLinkComplete made here, objects and archives, PTX
 * text. The system's libzstd and liblz4 are opened when the first compressed entry turns
 * up. Machine code is found only where kernels are skipped (FD_CPU_KERNELS=skip), and then
 * chosen as a driver does.
 *
 * Lengths inside an image are checked against the image's own; how long a bare pointer
 * may be read is the caller's promise, as with every driver.
 */
#include <dlfcn.h>
#include <elf.h>
#include <stdlib.h>
#include <string.h>

#include "cpudev.h"

#define WRAPPER_MAGIC 0x466243B1u
#define FATBIN_MAGIC 0xBA55ED50u
#define SECTION ".fdcpu.ptx"
#define TEXT_MAX (1ull << 30)
#define RATIO_MAX 1024 /* of an entry's text to its compressed bytes */

enum { ENTRY_PTX = 1, ENTRY_ELF = 2, FLAG_LZ4 = 0x2000, FLAG_ZSTD = 0x8000 };
enum { INPUT_CUBIN, INPUT_PTX, INPUT_FATBIN, INPUT_OBJECT, INPUT_LIBRARY, INPUT_NVVM };

struct wrapper {
    uint32_t magic, version;
    const void *data;
    const void *const *aux; /* version 2: fat binaries of the units, NULL at the end */
};

struct fatbin {
    uint32_t magic;
    uint16_t version, header_size;
    uint64_t size; /* of what follows */
} __attribute__((packed)); /* found at any address in an object */

struct entry {
    uint16_t kind, version;
    uint32_t header_size, size, pad0, compressed, options;
    uint16_t minor, major;
    uint32_t arch, name_offset, name_size;
    uint64_t flags, pad1, full_size;
} __attribute__((packed));
_Static_assert(sizeof(struct entry) == 64, "an entry's fixed part");

/* ---- the list ---- */

/* Adds text that the image owns from here on. */
static CUresult
add_owned(struct fdcpu_image *image, char *text, size_t size, const char *name)
{
    struct fdcpu_text *texts;
    char **owned;

    /* PTX ends at its first NUL, whatever padding follows. */
    if (!fdcpu_is_cubin(text, size))
        size = strnlen(text, size);
    texts = realloc(image->texts, (size_t)(image->ntexts + 1) * sizeof(*texts));
    if (texts == NULL)
        goto err;
    image->texts = texts;
    owned = realloc(image->owned, (size_t)(image->nowned + 1) * sizeof(*owned));
    if (owned == NULL)
        goto err;
    image->owned = owned;
    image->owned[image->nowned++] = text;
    image->texts[image->ntexts++] = (struct fdcpu_text){name, text, size};
    return CUDA_SUCCESS;
err:
    free(text);
    return CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult
add_copy(struct fdcpu_image *image, const void *text, size_t size, const char *name)
{
    char *copy = malloc(size + 1);

    if (copy == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memcpy(copy, text, size);
    copy[size] = '\0';
    return add_owned(image, copy, size, name);
}

void
fdcpu_image_close(struct fdcpu_image *image)
{
    int i;

    for (i = 0; i < image->nowned; i++)
        free(image->owned[i]);
    free(image->owned);
    free(image->texts);
    memset(image, 0, sizeof(*image));
}

/* ---- decompression ---- */

typedef size_t (*zstd_fn)(void *, size_t, const void *, size_t);
typedef int (*lz4_fn)(const char *, char *, int, int);
static zstd_fn zstd_decompress;
static lz4_fn lz4_decompress;
static pthread_once_t codecs_once = PTHREAD_ONCE_INIT;

static void
open_codecs(void)
{
    void *lib = dlopen("libzstd.so.1", RTLD_NOW | RTLD_LOCAL);

    if (lib != NULL)
        zstd_decompress = (zstd_fn)dlsym(lib, "ZSTD_decompress");
    lib = dlopen("liblz4.so.1", RTLD_NOW | RTLD_LOCAL);
    if (lib != NULL)
        lz4_decompress = (lz4_fn)dlsym(lib, "LZ4_decompress_safe");
}

static CUresult
unpack(struct fdcpu_image *image, const struct entry *e, const char *payload,
       const char *name)
{
    char *text;
    bool ok = false;

    if (e->compressed == 0)
        return add_copy(image, payload, e->size, name);
    if (e->compressed > e->size || e->full_size > TEXT_MAX ||
        e->full_size / RATIO_MAX > e->compressed)
        return CUDA_ERROR_INVALID_IMAGE;
    pthread_once(&codecs_once, open_codecs);
    text = malloc(e->full_size + 1);
    if (text == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    text[e->full_size] = '\0';
    if ((e->flags & FLAG_ZSTD) != 0) {
        if (zstd_decompress == NULL) {
            fdc_log(FDC_LOG_ERROR,
                    "code is compressed with zstd and libzstd.so.1 is not "
                    "here: install it, or compile with --compress-mode=none");
            free(text);
            return CUDA_ERROR_NO_BINARY_FOR_GPU;
        }
        ok =
            zstd_decompress(text, e->full_size, payload, e->compressed) == e->full_size;
    } else if ((e->flags & FLAG_LZ4) != 0) {
        if (lz4_decompress == NULL) {
            fdc_log(FDC_LOG_ERROR,
                    "code is compressed with LZ4 and liblz4.so.1 is not "
                    "here: install it, or compile with --compress-mode=none");
            free(text);
            return CUDA_ERROR_NO_BINARY_FOR_GPU;
        }
        ok = lz4_decompress(payload, text, (int)e->compressed, (int)e->full_size) ==
             (int)e->full_size;
    }
    if (!ok) {
        free(text);
        return CUDA_ERROR_INVALID_IMAGE;
    }
    return add_owned(image, text, e->full_size, name);
}

/* ---- fat binaries ---- */

/* Whether an entry for arch serves this device better than one for best. */
static bool
better(uint32_t arch, uint32_t best)
{
    uint32_t cc = (uint32_t)fdcpu.opt.cc;

    if (best == 0)
        return true;
    if ((arch <= cc) != (best <= cc))
        return arch <= cc;
    return arch <= cc ? arch >= best : arch < best;
}

/* The same of machine code, which serves its own architecture and minor ones above. */
static bool
fits(uint32_t arch, uint32_t best)
{
    uint32_t cc = (uint32_t)fdcpu.opt.cc;

    return fdcpu.opt.skip_kernels && arch / 10 == cc / 10 && arch <= cc && arch >= best;
}

/* What a fat binary holds that this device can take. */
struct choice {
    const struct entry *ptx, *code; /* the best, or NULL */
    char machine[256];              /* the architectures of machine code, for messages */
};

static CUresult
choose(const void *data, size_t room, struct choice *choice)
{
    const struct fatbin *head = data;
    const char *p, *end;
    size_t used = 0;

    memset(choice, 0, sizeof(*choice));
    if (room < sizeof(*head) || head->header_size < sizeof(*head) ||
        head->header_size > room || head->size > room - head->header_size)
        return CUDA_ERROR_INVALID_IMAGE;
    p = (const char *)data + head->header_size;
    end = p + head->size;
    while ((size_t)(end - p) >= sizeof(struct entry)) {
        const struct entry *e = (const void *)p;
        size_t left = (size_t)(end - p);

        if (e->header_size < sizeof(*e) || e->header_size > left ||
            e->size > left - e->header_size)
            return CUDA_ERROR_INVALID_IMAGE;
        if (e->kind == ENTRY_PTX &&
            better(e->arch, choice->ptx == NULL ? 0 : choice->ptx->arch))
            choice->ptx = e;
        if (e->kind == ENTRY_ELF &&
            fits(e->arch, choice->code == NULL ? 0 : choice->code->arch))
            choice->code = e;
        if (e->kind == ENTRY_ELF && used < sizeof(choice->machine) - 12)
            used += (size_t)snprintf(choice->machine + used,
                                     sizeof(choice->machine) - used, " sm_%u", e->arch);
        p += (size_t)e->header_size + e->size;
    }
    return CUDA_SUCCESS;
}

/* Adds the best that a fat binary of at most `room` bytes has. */
static CUresult
open_fatbin(struct fdcpu_image *image, const void *data, size_t room, const char *name)
{
    struct choice choice;
    const struct entry *best;
    CUresult result = choose(data, room, &choice);

    if (result != CUDA_SUCCESS)
        return result;
    best = choice.code != NULL ? choice.code : choice.ptx;
    if (best == NULL) {
        fdc_log(FDC_LOG_ERROR, "code for%s only: %s",
                choice.machine[0] == '\0' ? " nothing" : choice.machine,
                fdcpu.opt.skip_kernels
                    ? "set FD_CPU_CC to one of these"
                    : "this device runs PTX, and there is none "
                      "(compile with -gencode arch=compute_75,code=compute_75)");
        return CUDA_ERROR_NO_BINARY_FOR_GPU;
    }
    return unpack(image, best, (const char *)best + best->header_size, name);
}

static CUresult
open_bare_fatbin(struct fdcpu_image *image, const void *data, const char *name)
{
    const struct fatbin *head = data;

    if (head->magic != FATBIN_MAGIC)
        return CUDA_ERROR_INVALID_IMAGE;
    return open_fatbin(image, data, head->header_size + (size_t)head->size, name);
}

/* Whether a fat binary has machine code for this device. */
static bool
has_code(const void *data)
{
    const struct fatbin *head = data;
    struct choice choice;

    return head->magic == FATBIN_MAGIC &&
           choose(data, head->header_size + (size_t)head->size, &choice) ==
               CUDA_SUCCESS &&
           choice.code != NULL;
}

static CUresult
open_wrapper(struct fdcpu_image *image, const struct wrapper *w)
{
    const void *const *unit;
    CUresult result;

    if (w->data == NULL)
        return CUDA_ERROR_INVALID_IMAGE;
    /* Units of PTX are linked here; machine code is linked already. */
    if (w->version < 2 || w->aux == NULL || *w->aux == NULL || has_code(w->data))
        return open_bare_fatbin(image, w->data, "fatbin");
    for (unit = w->aux; *unit != NULL; unit++) {
        result = open_bare_fatbin(image, *unit, "relocatable fatbin");
        if (result != CUDA_SUCCESS)
            return result;
    }
    return CUDA_SUCCESS;
}

/* ---- our own ELF files: what cuLinkComplete gives out ---- */

void *
fdcpu_image_pack(const struct fdcpu_image *image, size_t *size)
{
    static const char names[] = "\0.shstrtab\0" SECTION;
    size_t body = 8, at;
    Elf64_Shdr *section;
    Elf64_Ehdr *head;
    char *file;
    int i;

    for (i = 0; i < image->ntexts; i++)
        body += 8 + FDC_ALIGN_UP(image->texts[i].size + 1, 8);
    at = sizeof(*head) + body + FDC_ALIGN_UP(sizeof(names), 8);
    *size = at + 3 * sizeof(*section);
    file = calloc(1, *size);
    if (file == NULL)
        return NULL;
    head = (Elf64_Ehdr *)file;
    memcpy(head->e_ident, ELFMAG, SELFMAG);
    head->e_ident[EI_CLASS] = ELFCLASS64;
    head->e_ident[EI_DATA] = ELFDATA2LSB;
    head->e_ident[EI_VERSION] = EV_CURRENT;
    head->e_type = ET_EXEC;
    head->e_machine = 190; /* EM_CUDA */
    head->e_version = EV_CURRENT;
    head->e_ehsize = sizeof(*head);
    head->e_shoff = at;
    head->e_shentsize = sizeof(*section);
    head->e_shnum = 3;
    head->e_shstrndx = 1;
    section = (Elf64_Shdr *)(file + at);
    section[1].sh_name = 1;
    section[1].sh_type = SHT_STRTAB;
    section[1].sh_offset = sizeof(*head) + body;
    section[1].sh_size = sizeof(names);
    section[2].sh_name = 11;
    section[2].sh_type = SHT_PROGBITS;
    section[2].sh_offset = sizeof(*head);
    section[2].sh_size = body;
    memcpy(file + sizeof(*head) + body, names, sizeof(names));
    at = sizeof(*head);
    *(uint64_t *)(file + at) = (uint64_t)image->ntexts;
    at += 8;
    for (i = 0; i < image->ntexts; i++) {
        *(uint64_t *)(file + at) = image->texts[i].size;
        memcpy(file + at + 8, image->texts[i].ptx, image->texts[i].size);
        at += 8 + FDC_ALIGN_UP(image->texts[i].size + 1, 8);
    }
    return file;
}

/* The end of the last thing that the headers of an ELF file speak of; 0: none. */
static size_t
elf_size(const char *file)
{
    const Elf64_Ehdr *head = (const void *)file;
    size_t end = sizeof(*head), at;
    Elf64_Shdr section;
    unsigned int i;

    if (head->e_ident[EI_CLASS] != ELFCLASS64 || head->e_shoff > TEXT_MAX ||
        head->e_phoff > TEXT_MAX || head->e_shentsize != sizeof(section))
        return 0;
    at = head->e_shoff + (size_t)head->e_shnum * sizeof(section);
    end = at > end ? at : end;
    at = head->e_phoff + (size_t)head->e_phnum * head->e_phentsize;
    end = at > end && head->e_phnum > 0 ? at : end;
    for (i = 0; i < head->e_shnum; i++) {
        memcpy(&section, file + head->e_shoff + i * sizeof(section), sizeof(section));
        if (section.sh_type == SHT_NOBITS || section.sh_size > TEXT_MAX ||
            section.sh_offset > TEXT_MAX)
            continue;
        at = section.sh_offset + section.sh_size;
        end = at > end ? at : end;
    }
    return end > TEXT_MAX ? 0 : end;
}

/* Machine code whose kernels will be skipped. */
static CUresult
add_cubin(struct fdcpu_image *image, const char *file, size_t room)
{
    if (room == SIZE_MAX)
        room = elf_size(file);
    return room == 0 ? CUDA_ERROR_INVALID_IMAGE
                     : add_copy(image, file, room, "cubin");
}

/* room: bytes that may be read, SIZE_MAX when unknown. */
static CUresult
open_elf(struct fdcpu_image *image, const char *file, size_t room)
{
    const Elf64_Ehdr *head = (const void *)file;
    const Elf64_Shdr *section, *names;
    const char *p;
    uint64_t n, size, left;
    CUresult result;
    unsigned int i;

    if (room < sizeof(*head) || head->e_ident[EI_CLASS] != ELFCLASS64 ||
        head->e_shentsize != sizeof(*section) || head->e_shoff > room ||
        (room - head->e_shoff) / sizeof(*section) < head->e_shnum ||
        head->e_shstrndx >= head->e_shnum)
        goto machine_code;
    section = (const void *)(file + head->e_shoff);
    names = &section[head->e_shstrndx];
    /* The types too: nobody has checked the length of a section without bytes. */
    if (head->e_shoff % 8 != 0 || names->sh_type != SHT_STRTAB ||
        names->sh_offset > room || names->sh_size > room - names->sh_offset)
        goto machine_code;
    for (i = 1; i < head->e_shnum; i++) {
        if (section[i].sh_name + sizeof(SECTION) > names->sh_size ||
            memcmp(file + names->sh_offset + section[i].sh_name, SECTION,
                   sizeof(SECTION)) != 0)
            continue;
        if (section[i].sh_type != SHT_PROGBITS || section[i].sh_offset > room ||
            section[i].sh_size > room - section[i].sh_offset || section[i].sh_size < 8)
            return CUDA_ERROR_INVALID_IMAGE;
        p = file + section[i].sh_offset;
        left = section[i].sh_size - 8;
        memcpy(&n, p, 8);
        p += 8;
        while (n-- > 0) {
            if (left < 8)
                return CUDA_ERROR_INVALID_IMAGE;
            memcpy(&size, p, 8);
            if (size >= left || FDC_ALIGN_UP(size + 1, 8) > left - 8)
                return CUDA_ERROR_INVALID_IMAGE;
            result = add_copy(image, p + 8, size, "linked");
            if (result != CUDA_SUCCESS)
                return result;
            p += 8 + FDC_ALIGN_UP(size + 1, 8);
            left -= 8 + FDC_ALIGN_UP(size + 1, 8);
        }
        return CUDA_SUCCESS;
    }
machine_code:
    if (fdcpu.opt.skip_kernels)
        return add_cubin(image, file, room);
    fdc_log(FDC_LOG_ERROR,
            "a cubin (machine code) was handed over: this device runs PTX "
            "only (CuPy: CUPY_COMPILE_WITH_PTX=1)");
    return CUDA_ERROR_NO_BINARY_FOR_GPU;
}

/* ---- entry ---- */

static CUresult
open_any(struct fdcpu_image *image, const void *data, size_t room, const char *name)
{
    uint32_t magic;

    /* All kinds begin with four bytes, none of them 0. */
    if (room < 4 || strnlen(data, 4) < 4)
        return CUDA_ERROR_INVALID_IMAGE;
    memcpy(&magic, data, 4);
    if (magic == WRAPPER_MAGIC)
        return open_wrapper(image, data);
    if (magic == FATBIN_MAGIC)
        return room == SIZE_MAX ? open_bare_fatbin(image, data, name)
                                : open_fatbin(image, data, room, name);
    if (memcmp(data, ELFMAG, SELFMAG) == 0)
        return open_elf(image, data, room);
    room = room == SIZE_MAX ? strlen(data) : strnlen(data, room);
    if (memmem(data, room, ".version", 8) == NULL)
        return CUDA_ERROR_INVALID_IMAGE;
    return add_copy(image, data, room, name);
}

CUresult
fdcpu_image_open(struct fdcpu_image *image, const void *data)
{
    CUresult result;

    memset(image, 0, sizeof(*image));
    if (data == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    result = open_any(image, data, SIZE_MAX, "image");
    if (result != CUDA_SUCCESS)
        fdcpu_image_close(image);
    return result;
}

/* Adds the PTX of every fat binary that an object or archive holds somewhere. */
static CUresult
scan(struct fdcpu_image *image, const char *data, size_t size, const char *name)
{
    static const uint32_t magic = FATBIN_MAGIC;
    const char *p = data, *end = data + size;
    int before = image->ntexts;
    CUresult result;

    while ((p = memmem(p, (size_t)(end - p), &magic, sizeof(magic))) != NULL) {
        const struct fatbin *head = (const void *)p;

        if ((size_t)(end - p) >= sizeof(*head) && head->version == 1 &&
            head->header_size == sizeof(*head) &&
            head->size <= (size_t)(end - p) - sizeof(*head)) {
            result = open_fatbin(image, p, (size_t)(end - p), name);
            if (result != CUDA_SUCCESS && result != CUDA_ERROR_NO_BINARY_FOR_GPU)
                return result;
            p += sizeof(*head) + head->size;
        } else {
            p += 4;
        }
    }
    return image->ntexts > before ? CUDA_SUCCESS : CUDA_ERROR_NO_BINARY_FOR_GPU;
}

CUresult
fdcpu_image_add(struct fdcpu_image *image, int kind, const void *data, size_t size,
                const char *name)
{
    CUresult result;

    if (data == NULL || size == 0)
        return CUDA_ERROR_INVALID_VALUE;
    switch (kind) {
    case INPUT_PTX:
        return add_copy(image, data, size, name);
    case INPUT_CUBIN:
    case INPUT_FATBIN:
        return open_any(image, data, size, name);
    case INPUT_OBJECT:
        return scan(image, data, size, name);
    case INPUT_LIBRARY:
        result = scan(image, data, size, name);
        if (result != CUDA_ERROR_NO_BINARY_FOR_GPU)
            return result;
        /* Such as libcudadevrt.a; what is really missing shows when linking. */
        fdc_log(FDC_LOG_INFO, "%s: a library without PTX, left out", name);
        return CUDA_SUCCESS;
    default:
        fdcpu_log_once("linking NVVM or LTO code is not supported: PTX only");
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}
