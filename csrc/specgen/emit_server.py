"""The device's side: one function a call that checks, looks up, calls the driver and
answers; and the table that dispatch goes by."""

from __future__ import annotations

import re

from ctext import banner, pointee, wrap
from model import Call, Param, Spec, Word


def _hook(call: Call) -> str:
    params = ["struct fdc_request *request", f"const struct fdc_req_{call.name} *req"]
    return wrap(f"int fdc_server_call_{call.name}(", params, ")")


def hooked(call: Call) -> bool:
    return call.internal or "server.call" in call.hooks


def served(spec: Spec) -> list[Call]:
    return sorted((c for c in spec.calls if c.travels), key=lambda c: c.id)


def server_hooks_h(spec: Spec) -> str:
    out = [banner()]
    out.append(
        "/* Calls that the areas serve by hand. The message's size is checked, its spans are\n"
        " * not. 0 (answered, kept, or nothing to answer) or -EPROTO: the message lies. */\n"
        "#ifndef FDC_SERVER_HOOKS_H\n#define FDC_SERVER_HOOKS_H\n\n"
        '#include "server/server.h"\n\n'
    )
    out += [_hook(call) + ";\n" for call in served(spec) if hooked(call)]
    return "".join([*out, "\n#endif\n"])


class _Serve:
    """The function that serves one call."""

    def __init__(self, spec: Spec, call: Call) -> None:
        self.spec, self.call = spec, call
        self.layout = spec.layouts[call.name]
        self.locals: list[str] = []
        self.spans: list[str] = []
        self.look_up: list[str] = []
        self.give: list[str] = []
        self.args: list[str] = []
        self.new: list[Param] = []
        self.free: list[str] = []

    def try_(self, function: str, *args: str) -> None:
        call = wrap(f"result = {function}(request->serve, ", list(args), ");", indent=4)
        self.look_up += [call, "if (result != CUDA_SUCCESS)", "    goto answer;"]

    def take(self, param: Param) -> None:
        word = self.call.words.get(param.name)
        if word is None:
            getattr(self, f"take_{self.spec.types[param.base].kind}")(param)
        elif word.kind == "dev":
            cast = f"({param.ctype.strip()})(uintptr_t)" if param.stars else ""
            if word.count:
                self.take_reach(param, word)
            self.args.append(f"{cast}req->{param.name}")
        elif word.kind == "null":
            self.args.append("NULL")
        elif word.kind == "cstr" or word.count:
            self.take_span(param, word)
        else:
            self.take_pointer(param, word)

    def take_reach(self, param: Param, word: Word) -> None:
        """The session's own memory, all of it; wide, so that no product wraps."""
        reach = word.count
        for other in self.call.params:
            reach = _replace(reach, other.name, f"(unsigned __int128)req->{other.name}")
        self.try_("fdc_memory_reach", f"req->{param.name}", reach)

    def take_scalar(self, param: Param) -> None:
        self.args.append(f"({param.base})req->{param.name}")

    def take_struct(self, param: Param) -> None:
        self.args.append(f"req->{param.name}")

    def take_device(self, param: Param) -> None:
        name = param.name
        self.locals.append(f"CUdevice {name};")
        self.try_("fdc_serve_device", f"req->{name}", f"&{name}")
        self.args.append(name)

    def take_handle(self, param: Param) -> None:
        name, known = param.name, self.spec.types[param.base]
        verb = "drop" if self.call.drops == name else "get"
        self.locals.append(f"void *{name};")
        kind = f"FDC_KIND_{known.handle}"
        self.try_(f"fdc_handle_{verb}", kind, f"req->{name}", f"&{name}")
        self.args.append(name)

    def take_stream(self, param: Param) -> None:
        name = param.name
        self.locals.append(f"CUstream {name};")
        self.try_("fdc_handle_stream", f"req->{name}", f"&{name}")
        self.args.append(name)

    def take_function(self, param: Param) -> None:
        name = param.name
        self.locals.append(f"CUfunction {name};")
        self.try_("fdc_code_function", f"req->{name}", f"&{name}")
        self.args.append(
            name if param.base == "CUfunction" else f"({param.base}){name}"
        )

    def take_span(self, param: Param, word: Word) -> None:
        name = param.name
        span = next(s for s in self.layout.spans if s.param.name == name)
        self.locals.append(f"const void *{name};")
        self.spans.append(f"{name} = fdc_request_span(request, req->{name});")
        if word.kind == "cstr":
            self.spans.append(
                f"if ({name} == NULL || req->{name}.size == 0 ||\n"
                f"        ((const char *){name})[req->{name}.size - 1] != 0)\n"
                "        return -EPROTO;"
            )
        else:
            wanted = f"(uint64_t)({self.count(word)}) * {span.element}"
            other = ""
            if word.optional:
                self.spans.append(f"if (req->{name}.size == 0)\n        {name} = NULL;")
                other = "else "
            self.spans.append(
                f"{other}if ({name} == NULL ||\n        req->{name}.size != {wanted})\n"
                "        return -EPROTO;"
            )
        self.args.append(name)

    def count(self, word: Word) -> str:
        """The size's expression, over the message's fields."""
        text = word.count
        for param in self.call.params:
            text = _replace(text, param.name, f"req->{param.name}")
        return text

    def take_pointer(self, param: Param, word: Word) -> None:
        name = param.name
        if word.kind == "new":
            self.locals.append(f"{pointee(param)} {name} = NULL;")
            self.args.append(f"&{name}")
            self.new.append(param)
            return
        if word.kind == "out":
            self.locals.append(f"{pointee(param)} {name};")
            self.look_up.append(f"memset(&{name}, 0, sizeof({name}));")
        else:
            self.locals.append(f"{pointee(param)} {name};")
            self.look_up.append(f"memcpy(&{name}, &req->{name}, sizeof({name}));")
        if word.kind != "in":
            self.give.append(f"memcpy(&reply.{name}, &{name}, sizeof({name}));")
        if word.optional and word.kind != "out":
            self.args.append(f"req->{name}_given ? &{name} : NULL")
        else:
            self.args.append(f"&{name}")

    def text(self) -> str:
        call = self.call
        req = f"struct fdc_req_{call.name}"
        head = f"static int\nserve_{call.name}(struct fdc_request *request)\n{{\n"
        head += f"    const {req} *req = (const void *)request->msg;\n"
        short = "    if (request->size < sizeof(*req))\n        return -EPROTO;\n"
        if hooked(call):
            return f"{head}\n{short}    return fdc_server_call_{call.name}(request, req);\n}}\n\n"
        for param in call.params:
            self.take(param)
        sync = call.mode == "sync"
        if sync:
            self.locals.append(f"struct fdc_rep_{call.name} reply = {{ 0 }};")
        out = head + "".join(f"    {line}\n" for line in self.locals)
        out += "    CUresult result;\n\n" + short
        out += "".join(f"    {line}\n" for line in self.spans)
        out += f"    if (request->driver->{call.name} == NULL) {{\n"
        out += (
            "        result = CUDA_ERROR_NOT_SUPPORTED;\n        goto answer;\n    }\n"
        )
        out += "".join(f"    {line}\n" for line in self.look_up)
        head = f"result = request->driver->{call.name}("
        out += f"    {wrap(head, self.args or [''], ');', indent=4)}\n"
        if self.new or self.give:
            out += "    if (result != CUDA_SUCCESS)\n        goto answer;\n"
        for param in self.new:
            known = self.spec.types[param.base]
            args = ["request->serve", f"FDC_KIND_{known.handle}"]
            args += [f"req->{param.name}", param.name, "request->ctx"]
            out += f"    {wrap('result = fdc_handle_put(', args, ');', indent=4)}\n"
        out += "".join(f"    {line}\n" for line in self.give)
        answer = "&reply, sizeof(reply)" if sync else "NULL, 0"
        out += f"answer:\n    fdc_request_answer(request, result, {answer});\n"
        return out + "    return 0;\n}\n\n"


def _replace(text: str, name: str, by: str) -> str:
    return re.sub(rf"(?<![\w>]){name}\b", by, text)


def server_calls_c(spec: Spec) -> str:
    out = [banner()]
    out.append("#include <errno.h>\n#include <string.h>\n\n")
    out.append('#include "server/server.h"\n#include "server_hooks.h"\n\n')
    out += [_Serve(spec, call).text() for call in served(spec)]
    out.append("static const struct fdc_serve_entry entries[] = {\n")
    for call in served(spec):
        context = "true" if call.needs == "context" else "false"
        slow = "true" if call.slow else "false"
        out.append(
            f'    {{ "{call.name}", "{call.seen or call.name}", serve_{call.name},\n'
            f"      sizeof(struct fdc_req_{call.name}), {slow}, {context} }},\n"
        )
    out.append(
        "};\n\nconst struct fdc_serve_entry *\nfdc_serve_entry(uint16_t id)\n{\n"
    )
    out.append("    switch (id) {\n")
    for number, call in enumerate(served(spec)):
        out.append(
            f"    case FDC_ID_{call.name}:\n        return &entries[{number}];\n"
        )
    out.append("    default:\n        return NULL;\n    }\n}\n")
    return "".join(out)
