/*
 * Textures and surfaces: tex, tld4, txq, suld, sust, sured, suq.
 *
 * A kernel names an object by a 64-bit number; what that means the environment says
 * (engine.h). Every index is brought into the bounds of the object before it becomes an
 * address, so that no number and no coordinate reaches other memory. Filtering follows
 * the CUDA programming guide: weights have 8 bits of fraction.
 */
#include "decode.h"
#include "fpconv.h"
#include "vm.h"

#define OPEN(name) FDCPU_HANDLER(fdcpu_op_##name); FDCPU_HANDLER(fdcpu_op_##name)
#define EXT(k) (x->frame->code->ext[i->ext + (k)].reg)

enum geometry { G_1D, G_2D, G_3D, G_A1D, G_A2D, G_CUBE, G_ACUBE, G_NONE };
enum mode { M_PLAIN, M_BASE, M_LEVEL, M_GRAD, M_GATHER };
enum outside { OUT_TRAP, OUT_CLAMP, OUT_ZERO };

/* insn.aux of tex: geometry, and */
enum {
    TEX_GEOM = 7, TEX_INT = 8, TEX_MODE_SHIFT = 4, TEX_OFFSET = 0x80, TEX_PRED = 0x100,
    TEX_COMP_SHIFT = 9, TEX_TYPE_SHIFT = 12,
};
/* insn.aux of suld, sust, sured: geometry, outside << 4, and */
enum {
    SU_OUT_SHIFT = 4, SU_FORMAT = 0x80, SU_TYPE_SHIFT = 12, SU_COUNT_SHIFT = 20,
    SU_OP_SHIFT = 24,
};
enum {
    Q_WIDTH, Q_HEIGHT, Q_DEPTH, Q_DATA_TYPE, Q_ORDER, Q_NORMALIZED, Q_ARRAY_SIZE, Q_LEVELS,
    Q_SAMPLES, Q_FILTER, Q_ADDRESS_0, Q_ADDRESS_1, Q_ADDRESS_2, Q_NONE,
};

static const struct { const char *name; uint8_t dims, layer, coords; } geometries[] = {
    [G_1D] = { "1d", 1, 0, 1 }, [G_2D] = { "2d", 2, 0, 2 }, [G_3D] = { "3d", 3, 0, 3 },
    [G_A1D] = { "a1d", 1, 1, 2 }, [G_A2D] = { "a2d", 2, 1, 3 },
    [G_CUBE] = { "cube", 3, 0, 3 }, [G_ACUBE] = { "acube", 3, 1, 4 },
};

/* ---- decoding ---- */

static enum geometry
geometry_of(struct dec *d)
{
    enum geometry g;

    for (g = 0; g < G_NONE && !dec_mod(d, geometries[g].name); g++)
        ;
    return g;
}

/* The parts of a vector, or the operand itself. */
static struct opnd *
parts(struct opnd *o, uint32_t *n)
{
    *n = o->kind == O_VEC ? o->nvec : 1;
    return o->kind == O_VEC ? o->vec : o;
}

/* Of [object, coordinates]: the register with the object, 0 where it has a name. */
static uint32_t
object_of(struct dec *d, const struct opnd *o, bool coordinates)
{
    if (o->kind != O_ADDR || (o->nvec != 0) != coordinates)
        DEC_FAIL(d, "expected an object%s in %.*s", coordinates ? " and coordinates" : "",
                 (int)d->form_n, d->form);
    if (o->reg >= UINT32_MAX - 1 || o->imm || o->nvec > 1)
        return 0;
    if (d->vreg[o->reg].cls != 'l')
        DEC_FAIL(d, "the object of %.*s is no 64-bit register", (int)d->form_n, d->form);
    return o->reg;
}

/* Registers of at least n parts as operands, n of them kept. */
static void
sources(struct dec *d, struct opnd *o, uint32_t n, char cls, enum fdcpu_type t, uint32_t *reg)
{
    uint32_t have;
    struct opnd *part = parts(o, &have);

    if (have < n)
        DEC_FAIL(d, "%u of %u elements in %.*s", have, n, (int)d->form_n, d->form);
    for (uint32_t k = 0; k < n; k++)
        reg[k] = dec_src(d, &part[k], cls, t);
}

static bool
lower_tex(struct dec *d)
{
    static const char *const components[] = { "r", "g", "b", "a" };
    enum geometry g = geometry_of(d);
    enum fdcpu_type ct = dec_type(d, 0), dt = dec_type(d, 1);
    enum mode mode = d->base_n == 4 ? M_GATHER : dec_mod(d, "base") ? M_BASE
                     : dec_mod(d, "level") ? M_LEVEL : dec_mod(d, "grad") ? M_GRAD : M_PLAIN;
    uint32_t n, want = dt == T_F16X2 ? 2 : 4, at = 2, object, comp = 0, count = 0;
    uint32_t from[24], to[5];
    struct opnd *part;
    struct fdcpu_insn *i;
    uint32_t aux;

    if (g == G_NONE || (ct != T_F32 && ct != T_S32) ||
        (dt != T_F32 && dt != T_U32 && dt != T_S32 && dt != T_B32 && dt != T_F16 &&
         dt != T_F16X2) || (g >= G_CUBE && ct != T_F32))
        return false;
    if (mode == M_GATHER) {
        for (comp = 0; comp < 4 && !dec_mod(d, components[comp]); comp++)
            ;
        if (comp == 4 || ct != T_F32 || geometries[g].dims == 1 || g == G_3D)
            return false;
    }
    dec_need(d, mode == M_LEVEL ? 3 : mode == M_GRAD ? 4 : 2, 6);
    object = object_of(d, &d->op[1], true);
    if (!object)
        return false;           /* texture references are no more */
    part = parts(&d->op[0], &n);
    if (n != want)
        DEC_FAIL(d, "vector of the wrong length in %.*s", (int)d->form_n, d->form);
    aux = (uint32_t)g | (ct == T_S32 ? TEX_INT : 0) | (uint32_t)mode << TEX_MODE_SHIFT |
          comp << TEX_COMP_SHIFT | (uint32_t)dt << TEX_TYPE_SHIFT;

    sources(d, d->op[1].vec, geometries[g].coords, 'w', ct, from);
    count = geometries[g].coords;
    if (mode == M_LEVEL) {
        sources(d, &d->op[at++], 1, 'w', ct, from + count++);
    } else if (mode == M_GRAD) {
        for (int k = 0; k < 2; k++) {
            sources(d, &d->op[at++], geometries[g].dims, 'w', T_F32, from + count);
            count += geometries[g].dims;
        }
    }
    if (at < d->nop && (d->op[at].kind == O_VEC ||
                        (geometries[g].dims == 1 && !fdcpu_type_float(d->op[at].type)))) {
        if (g >= G_CUBE)
            return false;
        sources(d, &d->op[at++], geometries[g].dims, 'w', T_S32, from + count);
        count += geometries[g].dims;
        aux |= TEX_OFFSET;
    }
    if (at < d->nop)
        return false;           /* depth comparison */
    for (uint32_t k = 0; k < n; k++)
        to[k] = dec_dst(d, &part[k], 'w', false);
    if (d->op[0].has_pair && d->op[0].pair != UINT32_MAX)
        aux |= TEX_PRED;
    i = dec_emit(d, OP_tex, 0, object, 0, 0);
    i->aux = aux;
    i->aux2 = n;
    i->ext = d->next;
    i->n = (uint16_t)(n + count + (aux & TEX_PRED ? 1 : 0));
    for (uint32_t k = 0; k < n; k++)
        dec_ext(d, to[k], 'W', 0);
    if (aux & TEX_PRED)
        dec_ext(d, d->op[0].pair, 'P', 0);
    for (uint32_t k = 0; k < count; k++)
        dec_ext(d, from[k], 'w', 0);
    dec_finish(d);
    return true;
}

static bool
lower_query(struct dec *d)
{
    static const char *const names[] = {
        [Q_WIDTH] = "width", [Q_HEIGHT] = "height", [Q_DEPTH] = "depth",
        [Q_DATA_TYPE] = "channel_data_type", [Q_ORDER] = "channel_order",
        [Q_NORMALIZED] = "normalized_coords", [Q_ARRAY_SIZE] = "array_size",
        [Q_LEVELS] = "num_mipmap_levels", [Q_SAMPLES] = "num_samples",
        [Q_FILTER] = "filter_mode", [Q_ADDRESS_0] = "addr_mode_0",
        [Q_ADDRESS_1] = "addr_mode_1", [Q_ADDRESS_2] = "addr_mode_2",
    };
    uint32_t object, query, level, dst;
    struct fdcpu_insn *i;

    for (query = 0; query < Q_NONE && !dec_mod(d, names[query]); query++)
        ;
    if (query == Q_NONE)
        return false;
    dec_need(d, 2, 3);
    object = object_of(d, &d->op[1], false);
    if (!object)
        return false;
    level = d->nop == 3 ? dec_src(d, &d->op[2], 'w', T_B32) : dec_const(d, 0, 'w', 0);
    dst = dec_dst(d, &d->op[0], 'w', false);
    i = dec_emit(d, OP_texquery, dst, object, level, 0);
    i->aux = query;
    i->aux2 = d->form[0] == 's';
    dec_finish(d);
    return true;
}

static bool
lower_surface(struct dec *d)
{
    static const char *const ops[] = { "add", "min", "max", "and", "or" };
    bool load = d->base_n == 4 && d->form[2] == 'l', red = d->base_n == 5;
    enum geometry g = geometry_of(d);
    enum fdcpu_type t = dec_type(d, 0);
    uint32_t n = dec_mod(d, "v2") ? 2 : dec_mod(d, "v4") ? 4 : 1, have, object, op = 0;
    uint32_t reg[4], coord[3];
    struct opnd *part;
    struct fdcpu_insn *i;
    char cls;

    if (g > G_A2D || !t || t == T_PRED || fdcpu_type_size(t) > 8)
        return false;
    if (dec_mod(d, "p") ? load || red || fdcpu_type_size(t) != 4 : !dec_mod(d, "b"))
        return false;
    if (red) {
        for (op = 0; op < 5 && !dec_mod(d, ops[op]); op++)
            ;
        if (op == 5 || fdcpu_type_size(t) < 4 || fdcpu_type_float(t))
            return false;
    }
    dec_need(d, 2, 2);
    object = object_of(d, &d->op[load ? 1 : 0], true);
    if (!object)
        return false;
    cls = dec_class(t);
    part = parts(&d->op[load ? 0 : 1], &have);
    if (have != n)
        DEC_FAIL(d, "vector of the wrong length in %.*s", (int)d->form_n, d->form);
    sources(d, d->op[load ? 1 : 0].vec, geometries[g].coords, 'w', T_S32, coord);
    for (uint32_t k = 0; k < n; k++)
        reg[k] = load ? dec_dst(d, &part[k], cls, false) : dec_src(d, &part[k], cls, t);
    i = dec_emit(d, load ? OP_suld : red ? OP_sured : OP_sust, 0, object, 0, 0);
    i->aux = (uint32_t)g | (dec_mod(d, "p") ? SU_FORMAT : 0) |
             (uint32_t)(dec_mod(d, "clamp") ? OUT_CLAMP : dec_mod(d, "zero") ? OUT_ZERO
                                                                              : OUT_TRAP)
                 << SU_OUT_SHIFT |
             (uint32_t)t << SU_TYPE_SHIFT | n << SU_COUNT_SHIFT | op << SU_OP_SHIFT;
    i->ext = d->next;
    i->n = (uint16_t)(n + geometries[g].coords);
    for (uint32_t k = 0; k < n; k++)
        dec_ext(d, reg[k], load ? (char)(cls - 32) : cls, 0);
    for (uint32_t k = 0; k < geometries[g].coords; k++)
        dec_ext(d, coord[k], 'w', 0);
    dec_finish(d);
    return true;
}

bool dec_texture(struct dec *d);

bool
dec_texture(struct dec *d)
{
    const char *s = d->form;

    if (s[0] == 't' && (s[1] == 'e' || s[1] == 'l'))
        return lower_tex(d);
    if (s[1] == 'x' || s[2] == 'q')
        return lower_query(d);
    return lower_surface(d);
}

/* ---- objects ---- */

/* The object behind a number, looked up again only when the number changes. */
struct lookup {
    uint64_t number;
    const struct fdcpu_texture *texture;
};

static const struct fdcpu_texture *
find(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint32_t lane, uint64_t number,
     bool surface, struct lookup *last)
{
    struct fdcpu_env *env = x->job->env;

    if (last->texture && last->number == number)
        return last->texture;
    last->number = number;
    last->texture = env->texture ? env->texture(env->texture_user, number, surface) : NULL;
    if (!last->texture)
        fdcpu_fault_at(x, i, (int)lane, 700, "0x%llx is no %s object",
                       (unsigned long long)number, surface ? "surface" : "texture");
    return last->texture;
}

/* Where an element lies; its indices are inside. NULL after a fault. */
static void *
element_at(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint32_t lane,
           const struct fdcpu_texture *t, const struct fdcpu_plane *p, const uint32_t at[3],
           bool store)
{
    uint64_t addr = p->base + at[2] * p->slice + at[1] * p->pitch + (uint64_t)at[0] * t->element;

    if (t->checked && !fdcpu_in_range(x, i, addr, addr + t->element, store)) {
        fdcpu_fault_address(x, i, (int)lane, 700, addr, t->element, "texture memory");
        return NULL;
    }
    return (void *)(uintptr_t)addr;
}

/* ---- texels ---- */

/* What the texture unit works on: four floats, or four integers. */
struct texel {
    bool flt;
    union { f32 f[4]; u32 u[4]; };
};

static f32
srgb_to_linear(f32 v)
{
    return v <= 0.04045f ? v / 12.92f : powf((v + 0.055f) / 1.055f, 2.4f);
}

static bool
is_float(const struct fdcpu_texture *t)
{
    return t->texel == FDCPU_TEXEL_F32 || t->texel == FDCPU_TEXEL_F16 ||
           (t->as_float && t->texel <= FDCPU_TEXEL_S16);
}

static void
read_texel(const struct fdcpu_texture *t, const void *from, struct texel *v)
{
    v->flt = is_float(t);
    memset(v->u, 0, sizeof(v->u));
    v->u[3] = v->flt ? f32_bits(1) : 1;         /* channels that are not there: 0 0 0 1 */
    for (uint32_t c = 0; c < t->channels; c++) {
        const uint8_t *p = (const uint8_t *)from + c * (t->element / t->channels);
        u16 half = 0;
        u32 word = 0;
        f32 max = 0;
        s32 n = 0;

        switch (t->texel) {
        case FDCPU_TEXEL_U8: n = *p, max = 255; break;
        case FDCPU_TEXEL_S8: n = (s8)*p, max = 127; break;
        case FDCPU_TEXEL_U16: memcpy(&half, p, 2), n = half, max = 65535; break;
        case FDCPU_TEXEL_S16: memcpy(&half, p, 2), n = (s16)half, max = 32767; break;
        case FDCPU_TEXEL_F16: memcpy(&half, p, 2), v->f[c] = h2f(half); continue;
        default: memcpy(&word, p, 4), v->u[c] = word; continue;
        }
        if (!v->flt) {
            v->u[c] = (u32)n;
        } else {
            v->f[c] = (f32)n / max < -1 ? -1 : (f32)n / max;
            if (t->srgb && t->texel == FDCPU_TEXEL_U8 && c < 3)
                v->f[c] = srgb_to_linear(v->f[c]);
        }
    }
}

static void
border_texel(const struct fdcpu_texture *t, struct texel *v)
{
    v->flt = is_float(t);
    memset(v->u, 0, sizeof(v->u));
    v->u[3] = v->flt ? f32_bits(1) : 1;
    for (uint32_t c = 0; c < t->channels; c++)
        v->u[c] = f32_bits(t->border[c]);       /* of integers the bits, as the unit has them */
}

/* An index after its address mode, or -1: the border. */
static s64
addressed(s64 at, s64 n, int how, bool normalized)
{
    if (how == FDCPU_ADDRESS_BORDER)
        return at < 0 || at >= n ? -1 : at;
    if (normalized && how == FDCPU_ADDRESS_WRAP) {
        at %= n;
        return at < 0 ? at + n : at;
    }
    if (normalized && how == FDCPU_ADDRESS_MIRROR) {
        at %= 2 * n;
        at = at < 0 ? at + 2 * n : at;
        return at < n ? at : 2 * n - 1 - at;
    }
    return at < 0 ? 0 : at >= n ? n - 1 : at;
}

struct sample {
    struct fdcpu_exec *x;
    const struct fdcpu_insn *i;
    uint32_t lane;
    const struct fdcpu_texture *t;
    uint32_t dims;              /* that are filtered, 1 to 3 */
    bool integer;               /* coordinates are indices */
    bool edge;                  /* of a cube's face: clamped */
    f64 at[3];
    s64 offset[3];
    uint32_t layer;
};

/* The texel at indices that may lie outside. False after a fault. */
static bool
texel_at(const struct sample *s, const struct fdcpu_plane *p, const s64 index[3],
         struct texel *v)
{
    const uint32_t size[3] = { p->width, p->height, p->depth };
    uint32_t at[3] = { 0, 0, s->dims < 3 ? s->layer : 0 };
    const void *from;

    for (uint32_t k = 0; k < s->dims; k++) {
        int how = s->edge ? FDCPU_ADDRESS_CLAMP : s->t->address[k];
        s64 a;

        if (s->t->line) {       /* nothing but fetches; outside is nothing */
            if (index[k] < 0 || index[k] >= size[k]) {
                v->flt = is_float(s->t);
                memset(v->u, 0, sizeof(v->u));
                return true;
            }
            a = index[k];
        } else {
            a = addressed(index[k], size[k], how, s->t->normalized && !s->integer);
        }
        if (a < 0) {
            border_texel(s->t, v);
            return true;
        }
        at[k] = (uint32_t)a;
    }
    from = element_at(s->x, s->i, s->lane, s->t, p, at, false);
    if (!from)
        return false;
    read_texel(s->t, from, v);
    return true;
}

/* Coordinate to texels, kept where integers are exact. */
static f64
scaled(const struct sample *s, uint32_t k, uint32_t size)
{
    f64 v = s->at[k];

    if (s->t->normalized && !s->integer)
        v *= size;
    return !(v > -0x1p40) ? (v == v ? -0x1p40 : 0) : v > 0x1p40 ? 0x1p40 : v;
}

/* The lower texel of the two that a filter takes, and the upper one's weight in 1/256. */
static s64
footprint(const struct sample *s, uint32_t k, uint32_t size, uint32_t *weight)
{
    s64 v = (s64)floor((scaled(s, k, size) - 0.5) * 256 + 0.5);

    *weight = (uint32_t)(v & 255);
    return (v >> 8) + s->offset[k];
}

static bool
sample_level(const struct sample *s, uint32_t level, struct texel *v)
{
    const struct fdcpu_plane *p = &s->t->level[level];
    const uint32_t size[3] = { p->width, p->height, p->depth };
    bool linear = s->t->linear && !s->integer && !s->t->line && is_float(s->t);
    uint32_t weight[3] = { 0 };
    f64 sum[4] = { 0 };
    s64 at[3] = { 0 };

    if (!linear) {
        for (uint32_t k = 0; k < s->dims; k++)
            at[k] = (s64)floor(scaled(s, k, size[k])) + s->offset[k];
        return texel_at(s, p, at, v);
    }
    for (uint32_t k = 0; k < s->dims; k++)
        at[k] = footprint(s, k, size[k], &weight[k]);
    for (uint32_t corner = 0; corner < 1u << s->dims; corner++) {
        s64 index[3] = { 0 };
        f64 w = 1;

        for (uint32_t k = 0; k < s->dims; k++) {
            index[k] = at[k] + (corner >> k & 1);
            w *= (f64)((corner >> k & 1) ? weight[k] : 256 - weight[k]) / 256;
        }
        if (w == 0)
            continue;
        if (!texel_at(s, p, index, v))
            return false;
        for (int c = 0; c < 4; c++)
            sum[c] += w * (f64)v->f[c];
    }
    v->flt = true;
    for (int c = 0; c < 4; c++)
        v->f[c] = (f32)sum[c];
    return true;
}

static bool
sample_lod(const struct sample *s, f32 lod, struct texel *v)
{
    const struct fdcpu_texture *t = s->t;
    struct texel upper;
    uint32_t level, weight;
    f32 most = (f32)(t->nlevels - 1);

    lod += t->lod_bias;
    lod = lod > t->lod_max ? t->lod_max : lod;
    lod = lod > t->lod_min ? lod : t->lod_min;  /* NaN too */
    lod = lod > 0 ? lod > most ? most : lod : 0;
    if (!t->mip_linear || !is_float(t)) {
        level = (uint32_t)(lod + 0.5f);
        return sample_level(s, level < t->nlevels ? level : t->nlevels - 1, v);
    }
    weight = (uint32_t)(lod * 256 + 0.5f);
    level = weight >> 8;
    weight &= 255;
    if (!sample_level(s, level, v))
        return false;
    if (!weight || level + 1 >= t->nlevels)
        return true;
    if (!sample_level(s, level + 1, &upper))
        return false;
    for (int c = 0; c < 4; c++)
        v->f[c] = (f32)((f64)v->f[c] * (256 - weight) / 256 + (f64)upper.f[c] * weight / 256);
    return true;
}

/* Direction to face and place on it, as the programming guide's table says. */
static uint32_t
cube_face(const f64 dir[3], f64 at[2])
{
    f64 x = dir[0], y = dir[1], z = dir[2], ax = fabs(x), ay = fabs(y), az = fabs(z);
    f64 m, s, t;
    uint32_t face;

    if (ax >= ay && ax >= az)
        face = x >= 0 ? 0 : 1, m = ax, s = x >= 0 ? -z : z, t = -y;
    else if (ay >= az)
        face = y >= 0 ? 2 : 3, m = ay, s = x, t = y >= 0 ? z : -z;
    else
        face = z >= 0 ? 4 : 5, m = az, s = z >= 0 ? x : -x, t = -y;
    at[0] = m > 0 ? (s / m + 1) / 2 : 0.5;
    at[1] = m > 0 ? (t / m + 1) / 2 : 0.5;
    return face;
}

/* Level of detail by the gradients: how many texels one step is, at most. */
static f32
gradient_lod(const struct sample *s, const f32 *dx, const f32 *dy, uint32_t n)
{
    const struct fdcpu_plane *p = &s->t->level[0];
    const uint32_t size[3] = { p->width, p->height, p->depth };
    f64 lx = 0, ly = 0;

    for (uint32_t k = 0; k < n; k++) {
        f64 scale = s->edge ? (f64)p->width / 2 : s->t->normalized ? (f64)size[k] : 1;

        lx += dx[k] * scale * dx[k] * scale;
        ly += dy[k] * scale * dy[k] * scale;
    }
    lx = lx > ly ? lx : ly;
    return lx > 0 ? (f32)(0.5 * log2(lx)) : -1000.0f;
}

static bool
gather(const struct sample *s, uint32_t comp, struct texel *v)
{
    static const uint8_t order[4][2] = { { 0, 1 }, { 1, 1 }, { 1, 0 }, { 0, 0 } };
    const struct fdcpu_plane *p = &s->t->level[0];
    uint32_t weight;
    s64 at[3] = { footprint(s, 0, p->width, &weight), footprint(s, 1, p->height, &weight), 0 };
    struct texel one;

    v->flt = is_float(s->t);
    for (int k = 0; k < 4; k++) {
        s64 index[3] = { at[0] + order[k][0], at[1] + order[k][1], 0 };

        if (!texel_at(s, p, index, &one))
            return false;
        v->u[k] = one.u[comp];
    }
    return true;
}

/* A layer's number: rounded down to those that there are. */
static uint32_t
layer_of(const struct fdcpu_texture *t, uint32_t number, uint32_t faces)
{
    uint32_t n = t->level[0].depth / faces;

    if (!t->layered || !n)
        return 0;
    return (number < n ? number : n - 1) * faces;
}

static bool
one_lane(struct fdcpu_exec *x, const struct fdcpu_insn *i, char *r, uint32_t l,
         struct sample *s, struct texel *v)
{
    enum geometry g = (enum geometry)(i->aux & TEX_GEOM);
    enum mode mode = (enum mode)(i->aux >> TEX_MODE_SHIFT & 7);
    uint32_t at = i->aux2 + ((i->aux & TEX_PRED) != 0), faces = g >= G_CUBE ? 6 : 1;
    f32 grad[2][3];
    f32 lod = 0;

    s->lane = l;
    s->integer = (i->aux & TEX_INT) != 0;
    s->dims = geometries[g].dims;
    s->edge = false;
    s->layer = 0;
    memset(s->offset, 0, sizeof(s->offset));
    if (geometries[g].layer)
        s->layer = layer_of(s->t, FDCPU_REG(u32, EXT(at++))[l], faces);
    for (uint32_t k = 0; k < geometries[g].dims; k++, at++)
        s->at[k] = s->integer ? (f64)FDCPU_REG(s32, EXT(at))[l] : (f64)FDCPU_REG(f32, EXT(at))[l];
    if (mode == M_LEVEL) {
        lod = s->integer ? (f32)FDCPU_REG(s32, EXT(at))[l] : FDCPU_REG(f32, EXT(at))[l];
        at++;
    } else if (mode == M_GRAD) {
        for (int j = 0; j < 2; j++)
            for (uint32_t k = 0; k < geometries[g].dims; k++)
                grad[j][k] = FDCPU_REG(f32, EXT(at++))[l];
    }
    if (i->aux & TEX_OFFSET)
        for (uint32_t k = 0; k < geometries[g].dims; k++)
            s->offset[k] = FDCPU_REG(s32, EXT(at++))[l];
    if (g >= G_CUBE) {
        f64 place[2];

        s->layer += cube_face(s->at, place);
        if (s->layer >= s->t->level[0].depth)
            s->layer = 0;       /* no cube */
        s->at[0] = s->t->normalized ? place[0] : place[0] * s->t->level[0].width;
        s->at[1] = s->t->normalized ? place[1] : place[1] * s->t->level[0].height;
        s->dims = 2;
        s->edge = true;
    }
    if (mode == M_GATHER)
        return gather(s, i->aux >> TEX_COMP_SHIFT & 3, v);
    if (mode == M_GRAD)
        lod = gradient_lod(s, grad[0], grad[1], geometries[g].dims);
    if (mode == M_BASE || s->t->nlevels == 1)
        return sample_level(s, 0, v);
    return sample_lod(s, lod, v);
}

static __attribute__((noinline)) bool
do_tex(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint32_t m, char *r)
{
    uint32_t type = i->aux >> TEX_TYPE_SHIFT & 0x3f;
    struct lookup last = { 0 };
    struct sample s = { .x = x, .i = i };
    struct texel v;

    FDCPU_EACH(l, FDCPU_GUARD) {
        s.t = find(x, i, l, FDCPU_REG(u64, i->a)[l], false, &last);
        if (!s.t || !one_lane(x, i, r, l, &s, &v))
            return false;
        for (uint32_t c = 0; c < 4; c++)
            if ((type == T_F16 || type == T_F16X2) && v.flt)
                v.u[c] = f2h(v.f[c]);
        for (uint32_t c = 0; c < i->aux2; c++)
            FDCPU_REG(u32, EXT(c))[l] = type == T_F16X2 ? x2(v.u[2 * c], v.u[2 * c + 1])
                                        : type == T_F16 ? v.u[c] & 0xffff : v.u[c];
        if (i->aux & TEX_PRED)
            FDCPU_PRED(EXT(i->aux2)) |= 1u << l;        /* all of it is resident */
    }
    return true;
}

OPEN(tex)
{
    if (!do_tex(x, i, m, r))
        FDCPU_STOP(i, WHY_FAULT);
    FDCPU_NEXT;
}

/* ---- queries ---- */

static u32
answer(const struct fdcpu_texture *t, uint32_t query, uint32_t level)
{
    /* the numbers of OpenCL's channel types, integer and normalised */
    static const u16 types[][2] = {
        [FDCPU_TEXEL_U8] = { 0x10da, 0x10d2 }, [FDCPU_TEXEL_S8] = { 0x10d7, 0x10d0 },
        [FDCPU_TEXEL_U16] = { 0x10db, 0x10d3 }, [FDCPU_TEXEL_S16] = { 0x10d8, 0x10d1 },
        [FDCPU_TEXEL_U32] = { 0x10dc, 0x10dc }, [FDCPU_TEXEL_S32] = { 0x10d9, 0x10d9 },
        [FDCPU_TEXEL_F16] = { 0x10dd, 0x10dd }, [FDCPU_TEXEL_F32] = { 0x10de, 0x10de },
    };
    const struct fdcpu_plane *p = &t->level[level < t->nlevels ? level : t->nlevels - 1];

    switch (query) {
    case Q_WIDTH: return p->width;
    case Q_HEIGHT: return t->dims > 1 ? p->height : 0;
    case Q_DEPTH: return t->dims > 2 ? p->depth : 0;
    case Q_DATA_TYPE: return types[t->texel][t->as_float];
    case Q_ORDER: return t->channels == 1 ? 0x10b0 : t->channels == 2 ? 0x10b2 : 0x10b5;
    case Q_NORMALIZED: return t->normalized;
    case Q_ARRAY_SIZE: return t->layered ? p->depth / (t->cube ? 6 : 1) : 0;
    case Q_LEVELS: return t->nlevels;
    case Q_SAMPLES: return 1;
    case Q_FILTER: return t->linear;
    default: return t->address[query - Q_ADDRESS_0];
    }
}

static __attribute__((noinline)) bool
do_texquery(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint32_t m, char *r)
{
    struct lookup last = { 0 };

    FDCPU_EACH(l, FDCPU_GUARD) {
        const struct fdcpu_texture *t =
            find(x, i, l, FDCPU_REG(u64, i->a)[l], i->aux2 != 0, &last);

        if (!t)
            return false;
        FDCPU_REG(u32, i->d)[l] = answer(t, i->aux, FDCPU_REG(u32, i->b)[l]);
    }
    return true;
}

OPEN(texquery)
{
    if (!do_texquery(x, i, m, r))
        FDCPU_STOP(i, WHY_FAULT);
    FDCPU_NEXT;
}

/* ---- surfaces ---- */

static int
clamped(s64 v, s64 n)
{
    return (int)(v < 0 ? 0 : v >= n ? n - 1 : v);
}

/*
 * Where an access of `size` bytes (0: one element, x counts elements) goes. False after a
 * fault; *to is NULL where it goes nowhere.
 */
static bool
surface_at(struct fdcpu_exec *x, const struct fdcpu_insn *i, char *r, uint32_t l,
           const struct fdcpu_texture *t, uint32_t size, bool store, uint8_t **to)
{
    enum geometry g = (enum geometry)(i->aux & TEX_GEOM);
    const struct fdcpu_plane *p = &t->level[0];
    uint32_t at = i->aux >> SU_COUNT_SHIFT & 7, unit = size ? 1 : t->element;
    s64 c[3] = { 0, 0, 0 }, n[3] = { (s64)p->width * t->element, p->height, p->depth };
    enum outside how = (enum outside)(i->aux >> SU_OUT_SHIFT & 3);
    uint64_t addr;
    bool in;

    if (geometries[g].layer)
        c[2] = FDCPU_REG(s32, EXT(at++))[l];
    for (uint32_t k = 0; k < geometries[g].dims; k++)
        c[k] = FDCPU_REG(s32, EXT(at++))[l];
    c[0] *= unit;
    size = size ? size : t->element;
    in = c[0] >= 0 && c[0] + size <= n[0] && c[1] >= 0 && c[1] < n[1] && c[2] >= 0 &&
         c[2] < n[2];
    *to = NULL;
    if (!in && how == OUT_ZERO)
        return true;
    if (!in && how == OUT_TRAP) {
        fdcpu_fault_at(x, i, (int)l, 719, "(%lld, %lld, %lld) is outside of the surface",
                       (long long)c[0], (long long)c[1], (long long)c[2]);
        return false;
    }
    if (c[0] % size) {
        fdcpu_fault_at(x, i, (int)l, 716, "byte %lld of a surface's row is misaligned",
                       (long long)c[0]);
        return false;
    }
    if (!in) {
        if (n[0] < size)
            return true;
        c[0] = (s64)clamped(c[0] / size, n[0] / size) * size;
        c[1] = clamped(c[1], n[1]);
        c[2] = clamped(c[2], n[2]);
    }
    addr = p->base + (uint64_t)c[2] * p->slice + (uint64_t)c[1] * p->pitch + (uint64_t)c[0];
    if (t->checked && !fdcpu_in_range(x, i, addr, addr + size, store)) {
        fdcpu_fault_address(x, i, (int)l, 700, addr, size, "surface memory");
        return false;
    }
    *to = (uint8_t *)(uintptr_t)addr;
    return true;
}

static __attribute__((noinline)) bool
do_suld(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint32_t m, char *r)
{
    uint32_t n = i->aux >> SU_COUNT_SHIFT & 7;
    uint32_t one = fdcpu_type_size((enum fdcpu_type)(i->aux >> SU_TYPE_SHIFT & 0x3f));
    struct lookup last = { 0 };

    FDCPU_EACH(l, FDCPU_GUARD) {
        const struct fdcpu_texture *t = find(x, i, l, FDCPU_REG(u64, i->a)[l], true, &last);
        uint8_t *from;

        if (!t || !surface_at(x, i, r, l, t, n * one, false, &from))
            return false;
        for (uint32_t k = 0; k < n; k++) {
            u64 v = 0;

            if (from)
                memcpy(&v, from + k * one, one);
            if (one == 8)
                FDCPU_REG(u64, EXT(k))[l] = v;
            else
                FDCPU_REG(u32, EXT(k))[l] = (u32)v;
        }
    }
    return true;
}

OPEN(suld)
{
    if (!do_suld(x, i, m, r))
        FDCPU_STOP(i, WHY_FAULT);
    FDCPU_NEXT;
}

/* sust.p: one channel in the surface's own format, too large numbers cut. */
static void
store_channel(const struct fdcpu_texture *t, u32 v, uint8_t *to)
{
    u32 size = t->element / t->channels, half;

    switch (t->texel) {
    case FDCPU_TEXEL_F16:
        half = f2h(bits_f32(v));
        memcpy(to, &half, 2);
        return;
    case FDCPU_TEXEL_U8: v = MINI(v, 255u); break;
    case FDCPU_TEXEL_U16: v = MINI(v, 65535u); break;
    case FDCPU_TEXEL_S8: v = (u32)MAXI(MINI((s32)v, 127), -128); break;
    case FDCPU_TEXEL_S16: v = (u32)MAXI(MINI((s32)v, 32767), -32768); break;
    default: break;
    }
    memcpy(to, &v, size);
}

static __attribute__((noinline)) bool
do_sust(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint32_t m, char *r)
{
    uint32_t n = i->aux >> SU_COUNT_SHIFT & 7;
    uint32_t one = fdcpu_type_size((enum fdcpu_type)(i->aux >> SU_TYPE_SHIFT & 0x3f));
    struct lookup last = { 0 };

    FDCPU_EACH(l, FDCPU_GUARD) {
        const struct fdcpu_texture *t = find(x, i, l, FDCPU_REG(u64, i->a)[l], true, &last);
        uint8_t *to;

        if (!t || !surface_at(x, i, r, l, t, i->aux & SU_FORMAT ? 0 : n * one, true, &to))
            return false;
        if (!to)
            continue;
        if (i->aux & SU_FORMAT) {
            for (uint32_t k = 0; k < t->channels; k++)
                store_channel(t, k < n ? FDCPU_REG(u32, EXT(k))[l] : 0,
                              to + k * (t->element / t->channels));
            continue;
        }
        for (uint32_t k = 0; k < n; k++) {
            u64 v = one == 8 ? FDCPU_REG(u64, EXT(k))[l] : FDCPU_REG(u32, EXT(k))[l];

            memcpy(to + k * one, &v, one);
        }
    }
    return true;
}

OPEN(sust)
{
    if (!do_sust(x, i, m, r))
        FDCPU_STOP(i, WHY_FAULT);
    FDCPU_NEXT;
}

static u64
reduced(u32 op, enum fdcpu_type t, u64 a, u64 b)
{
    bool wide = fdcpu_type_size(t) == 8, less;

    switch (op) {
    case 0: return a + b;
    case 3: return a & b;
    case 4: return a | b;
    default:
        less = !fdcpu_type_signed(t) ? (wide ? a < b : (u32)a < (u32)b)
               : wide ? (s64)a < (s64)b : (s32)a < (s32)b;
        return less == (op == 1) ? a : b;
    }
}

static __attribute__((noinline)) bool
do_sured(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint32_t m, char *r)
{
    enum fdcpu_type type = (enum fdcpu_type)(i->aux >> SU_TYPE_SHIFT & 0x3f);
    uint32_t size = fdcpu_type_size(type), op = i->aux >> SU_OP_SHIFT;
    struct lookup last = { 0 };

    FDCPU_EACH(l, FDCPU_GUARD) {
        const struct fdcpu_texture *t = find(x, i, l, FDCPU_REG(u64, i->a)[l], true, &last);
        uint8_t *to;

        if (!t || !surface_at(x, i, r, l, t, size, true, &to))
            return false;
        if (!to)
            continue;
        if (size == 8) {
            u64 *p = (u64 *)(void *)to, old = __atomic_load_n(p, __ATOMIC_RELAXED);

            while (!__atomic_compare_exchange_n(
                p, &old, reduced(op, type, old, FDCPU_REG(u64, EXT(0))[l]), false,
                __ATOMIC_RELAXED, __ATOMIC_RELAXED))
                ;
        } else {
            u32 *p = (u32 *)(void *)to, old = __atomic_load_n(p, __ATOMIC_RELAXED);

            while (!__atomic_compare_exchange_n(
                p, &old, (u32)reduced(op, type, old, FDCPU_REG(u32, EXT(0))[l]), false,
                __ATOMIC_RELAXED, __ATOMIC_RELAXED))
                ;
        }
    }
    return true;
}

OPEN(sured)
{
    if (!do_sured(x, i, m, r))
        FDCPU_STOP(i, WHY_FAULT);
    FDCPU_NEXT;
}
