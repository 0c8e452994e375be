"""The application's side: stubs, refusals, the hooks' prototypes, the export list."""

from __future__ import annotations

from ctext import arguments, banner, pointee, prototype, wrap
from emit_driver import one_answers, public, refusals
from model import Call, Param, Spec, Type, Word

LARGEST_SPAN = 32768  # bytes; what is larger goes through a region


def stubbed(spec: Spec) -> list[Call]:
    """Calls whose stub is generated."""
    return [c for c in spec.calls if c.public and c.travels and not c.shim_hand]


def _hook_params(call: Call, by_address: bool) -> list[str]:
    star = "*" if by_address else ""
    return [f"{p.ctype}{star}{p.name}" if by_address else p.decl for p in call.params]


def _before(call: Call) -> str:
    params = ["struct fdc_call *call", *_hook_params(call, True)]
    return wrap(f"CUresult fdc_shim_before_{call.name}(", params, ")")


def _after(call: Call) -> str:
    params = ["struct fdc_call *call", *_hook_params(call, False), "CUresult result"]
    if call.mode == "sync":
        params.append(f"const struct fdc_rep_{call.name} *rep")
    return wrap(f"CUresult fdc_shim_after_{call.name}(", params, ")")


def shim_hooks_h(spec: Spec) -> str:
    out = [banner()]
    out.append(
        "/* before: may change the arguments; anything but 0 is returned at once. after: gives\n"
        " * the call's result; rep is NULL unless the call succeeded. */\n"
        "#ifndef FDC_SHIM_HOOKS_H\n#define FDC_SHIM_HOOKS_H\n\n"
        '#include "shim/shim.h"\n\n'
    )
    for call in stubbed(spec):
        if "shim.before" in call.hooks:
            out.append(_before(call) + ";\n")
        if "shim.after" in call.hooks:
            out.append(_after(call) + ";\n")
    return "".join([*out, "\n#endif\n"])


def shim_map(spec: Spec) -> str:
    names = [symbol for call in public(spec) for symbol, _, _ in call.symbols]
    listed = "".join(f"        {name};\n" for name in sorted(names))
    return banner("hash") + "{\n    global:\n" + listed + "    local:\n        *;\n};\n"


class _Stub:
    """One generated stub, put together piece by piece."""

    def __init__(self, spec: Spec, call: Call) -> None:
        self.spec, self.call = spec, call
        self.layout = spec.layouts[call.name]
        self.locals: list[str] = []
        self.body: list[str] = []
        self.fill: list[str] = []
        self.last: list[str] = []  # what needs to know the call's server
        self.moves = ""  # the stream of a call that follows its memory
        if call.moves:
            self.moves = next(
                p.name
                for p in call.params
                if p.name not in call.words and spec.types[p.base].kind == "stream"
            )
        self.size = "length" if self.layout.spans else "sizeof(*req)"
        self.new: list[tuple[Param, Word]] = []

    def say(self, *lines: str) -> None:
        self.body += [f"    {line}\n" for line in lines]

    def refuse(self, condition: str, result: str) -> None:
        self.say(f"if ({condition})", f"    return {result};")

    def checks(self) -> None:
        for param in self.call.params:
            word = self.call.words.get(param.name)
            known = self.spec.types.get(param.base)
            name = param.name
            if word is None:
                assert known
                getattr(self, f"take_{known.kind}")(param, known)
            elif word.kind == "dev":
                self.take_address(param, word)
            elif word.kind == "null":
                self.refuse(f"{name} != NULL", "CUDA_ERROR_NOT_SUPPORTED")
            elif word.kind == "cstr" or word.count:
                self.take_span(param, word)
            else:
                if not word.optional:
                    self.refuse(f"{name} == NULL", "CUDA_ERROR_INVALID_VALUE")
                self.take_pointer(param, word)
        for check in self.last:
            self.say(f"result = {check};")
            self.refuse("result != CUDA_SUCCESS", "result")

    def take_scalar(self, param: Param, known: Type) -> None:
        self.fill.append(f"req->{param.name} = {param.name};")

    take_struct = take_scalar

    def take_device(self, param: Param, known: Type) -> None:
        name = param.name
        self.locals.append(f"struct fdc_device *{name}_device;")
        self.say(f"{name}_device = fdc_device({name});")
        self.refuse(f"{name}_device == NULL", "CUDA_ERROR_INVALID_DEVICE")
        self.say(f"if ({name}_device->session != call.session) {{",
                 f"    call.session = {name}_device->session;",
                 "    call.context = NULL;", "}")
        self.fill.append(f"req->{name} = {name}_device->remote;")

    def take_handle(self, param: Param, known: Type) -> None:
        name = param.name
        self.locals.append(f"struct {known.object} *{name}_object;")
        self.say(f"{name}_object = fdc_object_find(FDC_KIND_{known.handle}, {name});")
        self.refuse(f"{name}_object == NULL", "CUDA_ERROR_INVALID_HANDLE")
        plain = known.object == "fdc_object"
        head = f"{name}_object" if plain else f"&{name}_object->object"
        self.say(f"result = fdc_call_join(&call, {head});")
        self.refuse("result != CUDA_SUCCESS", "result")
        self.fill.append(f"req->{name} = (uint64_t)(uintptr_t){name};")

    def take_stream(self, param: Param, known: Type) -> None:
        name = param.name
        how = "how | FDC_STREAM_WORK" if self.call.work else "how"
        self.locals.append(f"struct fdc_stream *{name}_stream;")
        self.say(f"result = fdc_stream_resolve(&call, {name}, {how}, &{name}_stream);")
        self.refuse("result != CUDA_SUCCESS", "result")
        self.fill.append(f"req->{name} = fdc_stream_wire({name}_stream);")

    def take_function(self, param: Param, known: Type) -> None:
        name = param.name
        self.locals.append(f"struct fdc_func *{name}_func;")
        self.say(f"{name}_func = fdc_func_find({name});")
        self.refuse(f"{name}_func == NULL", "CUDA_ERROR_INVALID_HANDLE")
        self.locals.append(f"struct fdc_wire_func {name}_wire;")
        self.last.append(f"fdc_func_wire(&call, {name}_func, &{name}_wire)")
        self.fill.append(f"req->{name} = {name}_wire;")

    def take_address(self, param: Param, word: Word) -> None:
        name = param.name
        if word.count:
            value = f"(uint64_t)(uintptr_t){name}" if param.stars else name
            # Last: whose memory it has to be is known once streams and handles are.
            if self.moves:
                self.last.append(
                    f"fdc_across_begin(&call, &{self.moves}_stream, {value})"
                )
            self.last.append(f"fdc_place_check(&call, {value}, {word.count})")
        cast = "(uint64_t)(uintptr_t)" if param.stars else ""
        self.fill.append(f"req->{name} = {cast}{name};")

    def take_span(self, param: Param, word: Word) -> None:
        name = param.name
        span = next(s for s in self.layout.spans if s.param.name == name)
        self.locals.append(f"uint32_t {name}_size;")
        if word.kind == "cstr":
            self.refuse(f"{name} == NULL", "CUDA_ERROR_INVALID_VALUE")
            self.locals.append(f"size_t {name}_length;")
            self.say(f"{name}_length = strlen({name}) + 1;")
            self.refuse(f"{name}_length > {LARGEST_SPAN}", "CUDA_ERROR_INVALID_VALUE")
            self.say(f"{name}_size = (uint32_t){name}_length;")
        else:
            most = word.limit or LARGEST_SPAN // span.element
            self.refuse(
                f"(uint64_t)({word.count}) > {most}", "CUDA_ERROR_INVALID_VALUE"
            )
            self.say(f"{name}_size = (uint32_t)({word.count}) * {span.element};")
            if word.optional:
                self.say(f"if ({name} == NULL)", f"    {name}_size = 0;")
            else:
                self.refuse(
                    f"{name} == NULL && {name}_size != 0", "CUDA_ERROR_INVALID_VALUE"
                )
        self.fill.append(f"req->{name}.offset = at;")
        self.fill.append(f"req->{name}.size = {name}_size;")
        self.fill.append(f"at = put_span(req, at, {name}, {name}_size);")
        self.say(f"length += FDC_ALIGN_UP({name}_size, 8u);")

    def take_pointer(self, param: Param, word: Word) -> None:
        name = param.name
        if word.kind == "new":
            self.new.append((param, word))
            self.locals.append(
                f"struct {self.spec.types[param.base].object} *{name}_object;"
            )
            self.fill.append(f"req->{name} = {name}_object->{self.handle_path(param)};")
        elif word.kind in ("in", "inout"):
            copy = f"memcpy(&req->{name}, {name}, sizeof(*{name}));"
            if word.optional:
                self.fill.append(f"req->{name}_given = {name} != NULL;")
                self.fill.append(f"memset(&req->{name}, 0, sizeof(req->{name}));")
                self.fill.append(f"if ({name} != NULL)\n        {copy}")
            else:
                self.fill.append(copy)

    def handle_path(self, param: Param) -> str:
        plain = self.spec.types[param.base].object == "fdc_object"
        return "handle" if plain else "object.handle"

    def make_objects(self) -> None:
        for param, _ in self.new:
            known = self.spec.types[param.base]
            made = f"{param.name}_object"
            args = ["call.session", f"FDC_KIND_{known.handle}"]
            args += [f"sizeof(*{made})", "call.context"]
            self.say(wrap(f"{made} = fdc_object_new(", args, ");", indent=4))
            self.refuse(f"{made} == NULL", "CUDA_ERROR_OUT_OF_MEMORY")

    def drop_objects(self) -> list[str]:
        return [f"    fdc_object_drop({param.name}_object);" for param, _ in self.new]

    def give_objects(self) -> None:
        for param, _ in self.new:
            value = f"{param.name}_object->{self.handle_path(param)}"
            self.say(f"*{param.name} = ({pointee(param)})(uintptr_t){value};")

    def needs(self) -> str:
        flags = {
            "none": "0", "init": "FDC_NEEDS_INIT",
            "context": "FDC_NEEDS_CONTEXT",
        }[self.call.needs]  # fmt: skip
        return flags + (" | FDC_UNSAFE_IN_CAPTURE" if self.call.unsafe else "")

    def send(self) -> None:
        call = self.call
        spans = bool(self.layout.spans)
        if spans:
            self.locals.append("uint32_t length = sizeof(*req), at;")
        self.say(f"req = fdc_call_begin(&call, {self.size});")
        if self.new:
            self.say(
                "if (req == NULL) {",
                *self.drop_objects(),
                "    return call.result;",
                "}",
            )
        else:
            self.refuse("req == NULL", "call.result")
        if spans:
            self.say("at = sizeof(*req);")
        self.say(*self.fill)
        if call.mode == "sync":
            self.locals.append(f"struct fdc_rep_{call.name} rep;")
            self.say("result = fdc_call_wait(&call, &rep, sizeof(rep));")
        else:
            self.say("result = fdc_call_send(&call);")
        if self.moves:
            self.say(f"result = fdc_across_end(&call, {self.moves}_stream, result);")
        after = "shim.after" in call.hooks
        drop = self.drop_objects()
        if len(drop) > 1:
            self.say("if (result != CUDA_SUCCESS) {", *drop, "}")
        elif drop:
            self.say("if (result != CUDA_SUCCESS)", *drop)
        if after:
            args = ["&call", *arguments(call), "result"]
            if call.mode == "sync":
                args.append("result == CUDA_SUCCESS ? &rep : NULL")
            self.say(
                wrap(f"result = fdc_shim_after_{call.name}(", args, ");", indent=4)
            )
        if call.drops:
            dropped = f"{call.drops}_{self.dropped()}"
            self.say("if (result == CUDA_SUCCESS)", f"    fdc_object_drop({dropped});")
        words = [(p, call.words.get(p.name)) for p in call.params]
        answers = [(p, w) for p, w in words if w and w.kind in ("out", "inout")]
        if self.new or answers:
            self.refuse("result != CUDA_SUCCESS", "result")
            self.give_objects()
            for param, word in answers:
                name = param.name
                if word.optional:
                    self.say(f"if ({name} != NULL)")
                inner = "    " if word.optional else ""
                self.say(f"{inner}memcpy({name}, &rep.{name}, sizeof(*{name}));")
            self.say("return CUDA_SUCCESS;")
        else:
            self.say("return result;")

    def dropped(self) -> str:
        param = self.call.param(self.call.drops)
        assert param
        return "stream" if self.spec.types[param.base].kind == "stream" else "object"

    def text(self) -> str:
        call = self.call
        by_value = [p for p in call.params if p.name not in call.words]
        uses_stream = any(self.spec.types[p.base].kind == "stream" for p in by_value)
        self.say(f"result = fdc_call_open(&call, FDC_ID_{call.name}, {self.needs()});")
        self.refuse("result != CUDA_SUCCESS", "result")
        if "shim.before" in call.hooks:
            args = ["&call", *(f"&{p.name}" for p in call.params)]
            self.say(
                wrap(f"result = fdc_shim_before_{call.name}(", args, ");", indent=4)
            )
            self.refuse("result != CUDA_SUCCESS", "result")
        self.checks()
        self.make_objects()
        self.send()
        params = [p.decl for p in call.params] + ["unsigned how"]
        out = f"static CUresult\n{wrap(f'call_{call.name}(', params, ')')}\n{{\n"
        out += f"    struct fdc_call call;\n    struct fdc_req_{call.name} *req;\n"
        out += "    CUresult result;\n"
        out += "".join(f"    {line}\n" for line in self.locals) + "\n"
        if not uses_stream:
            out += "    (void)how;\n"
        return out + "".join(self.body) + "}\n\n" + exports(call, call, {})


def exports(call: Call, target: Call, missing: dict[str, str]) -> str:
    """The exported symbols of a call (and its twin) that run the target's stub."""
    out = ""
    for symbol, _, per_thread in call.symbols:
        how = "FDC_STREAM_PER_THREAD_ZERO" if per_thread else "0"
        args = [missing.get(p.name, p.name) for p in target.params] + [how]
        out += f"FDC_EXPORT\n{prototype(call, symbol)}\n{{\n"
        call_it = wrap(f"return call_{target.name}(", args, ");", indent=4)
        out += f"    {call_it}\n}}\n\n"
    return out


def _like(spec: Spec, call: Call) -> str:
    target = spec.find(call.like)
    assert target
    mine = {p.name for p in call.params}
    missing = {p.name: "NULL" for p in target.params if p.name not in mine}
    return exports(call, target, missing)


HELPERS = r"""
/* Puts a span's bytes behind the message's fields; gives the place of the next one. */
static inline uint32_t
put_span(void *message, uint32_t at, const void *bytes, uint32_t size)
{
    if (size)
        memcpy((char *)message + at, bytes, size);
    return at + FDC_ALIGN_UP(size, 8u);
}

"""


def _names(spec: Spec) -> str:
    out = "const char *\nfdc_call_name(uint16_t id)\n{\n    switch (id) {\n"
    for call in sorted((c for c in spec.calls if c.travels), key=lambda c: c.id):
        out += f'    case FDC_ID_{call.name}:\n        return "{call.name}";\n'
    out += '    default:\n        return "unknown call";\n    }\n}\n\n'
    out += "const char *\nfdc_call_seen(uint16_t id)\n{\n    switch (id) {\n"
    for call in sorted((c for c in spec.calls if c.seen), key=lambda c: c.id):
        out += f'    case FDC_ID_{call.name}:\n        return "{call.seen}";\n'
    return out + "    default:\n        return fdc_call_name(id);\n    }\n}\n\n"


def shim_calls_c(spec: Spec) -> str:
    out = [banner()]
    out.append(
        "/* Every exported name: the stubs of calls that travel as they are described; the\n"
        " * refusals; and, weak, a refusal for each call that an area writes by hand, until it\n"
        " * does. */\n"
        '#include <string.h>\n\n#include "cuda_calls.h"\n#include "shim/shim.h"\n'
        '#include "shim_hooks.h"\n'
    )
    out.append(HELPERS)
    out.append(_names(spec))
    out += [_Stub(spec, call).text() for call in stubbed(spec)]
    out += [_like(spec, c) for c in spec.calls if c.like]
    out.append("/* ---- refused ---- */\n\n")
    out.append('#pragma GCC diagnostic ignored "-Wunused-parameter"\n\n')
    out += refusals(
        [c for c in public(spec) if c.mode == "refused"], "fdc_refuse", False
    )
    out.append("/* ---- one answer, always ---- */\n\n")
    out += one_answers(
        spec, "fdc_session_check()", "fdc_object_find(FDC_KIND_{kind}, {name})", False
    )
    out.append("/* ---- written by hand elsewhere ---- */\n\n")
    hand = [
        c
        for c in public(spec)
        if c.shim_hand or (c.mode == "local" and not c.like and not c.gives)
    ]
    out += refusals(hand, "fdc_refuse", True)
    return "".join(out)
