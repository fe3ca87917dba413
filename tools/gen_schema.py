#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Makes of src/rpc/schema/*.json: the C structures and table of the decoder, docs/rpc.md, the man page berth-rpc(7).

  gen_schema.py SCHEMA... [--header FILE] [--source FILE] [--doc FILE] [--man FILE] [--check]

Each SCHEMA is one group of methods: {title, doc, methods}, shown in the order in which they are named. Names, types and codes
are SPDK's where SPDK has the method.
--check writes nothing and fails when a file is not what would be written.

Keys of a method: name; aliases (older names); states (startup, runtime); mutates (goes to the state log); summary,
doc, result (words; `code`); example ({params, result}); params; decode_error (code for a missing, unknown or mistyped
parameter, -32603); range_error (code for a value outside its bounds, -22).
Keys of a parameter: name; type (see TYPES); required; default; min, max, multiple_of, power_of_two; values (of an
enum, compared without regard to case); neutral (the only value that is accepted; no field in the structure); secret (may
hold one: no error shows what was given); doc.
"""
import argparse
import json
import re
import sys

TYPES = {  # type: (words for people, C declaration)
    "bool": ("bool", "bool {};"),
    "uint32": ("number", "uint32_t {};"),
    "uint64": ("number", "uint64_t {};"),
    "int64": ("number", "int64_t {};"),
    "string": ("string", "const char *{};"),
    "enum": ("string", "const char *{};"),
    "uuid": ("UUID", "uuid_t {};"),
    "strings": ("array of strings", "struct rpc_strings {};"),
    "object": ("object", "const json_t *{};"),
    "json": ("any", "const json_t *{};"),
}
RANGES = {"uint32": (0, 2**32 - 1), "uint64": (0, 2**63 - 1), "int64": (-2**63, 2**63 - 1)}
METHOD_KEYS = {"name", "aliases", "states", "mutates", "summary", "doc", "result", "example", "params",
               "decode_error", "range_error"}
PARAM_KEYS = {"name", "type", "required", "default", "min", "max", "multiple_of", "power_of_two", "values",
              "neutral", "secret", "doc"}
IDENTIFIER = re.compile(r"^[a-z][a-z0-9_]*$")
BANNER = "Made by tools/gen_schema.py from src/rpc/schema/; changes belong there."


class SchemaError(Exception):
    pass


def need(condition, *words):
    if not condition:
        raise SchemaError(" ".join(str(w) for w in words))


# ---- Reading ----

def check_value(where, param, value):
    kind = param["type"]
    if kind == "bool":
        need(isinstance(value, bool), where, "wants true or false")
    elif kind in RANGES:
        low, high = param["range"]
        need(isinstance(value, int) and not isinstance(value, bool), where, "wants a number")
        need(low <= value <= high, where, "is out of range")
    elif kind == "enum":
        need(value in param["values"], where, "is none of the values")
    elif kind == "string":
        need(isinstance(value, str), where, "wants a string")
    else:
        need(False, where, "is impossible for a", kind)


def check_param(method, param):
    where = f"{method['name']}: {param.get('name')}:"
    need(IDENTIFIER.match(param.get("name", "")), where, "no good name")
    need(set(param) <= PARAM_KEYS, where, "unknown keys", set(param) - PARAM_KEYS)
    kind = param.get("type")
    need(kind in TYPES, where, "unknown type", kind)
    need(param.get("doc"), where, "no doc")
    need(("values" in param) == (kind == "enum"), where, "values belong to enums")
    bounds = {"min", "max", "multiple_of", "power_of_two"} & set(param)
    need(not bounds or kind in RANGES, where, "bounds belong to numbers")
    need(not param.get("secret") or not (kind in RANGES or "neutral" in param), where, "numbers are no secrets")
    if kind in RANGES:
        low, high = RANGES[kind]
        param["range"] = (param.get("min", low), param.get("max", high))
        need(low <= param["range"][0] <= param["range"][1] <= high, where, "impossible bounds")
    need(sum(k in param for k in ("required", "default", "neutral")) <= 1, where,
         "required, default and neutral exclude each other")
    for key in ("default", "neutral"):
        if key in param:
            check_value(f"{where} {key}", param, param[key])


def check_method(method, seen):
    where = f"{method.get('name')}:"
    need(IDENTIFIER.match(method.get("name", "")), where, "no good name")
    need(set(method) <= METHOD_KEYS, where, "unknown keys", set(method) - METHOD_KEYS)
    for name in [method["name"]] + method.setdefault("aliases", []):
        need(name not in seen, name, "is there twice")
        seen.add(name)
    need(method.get("states") and set(method["states"]) <= {"startup", "runtime"}, where, "states")
    need(method.get("summary") and method.get("result"), where, "summary or result missing")
    names = set()
    for param in method.setdefault("params", []):
        check_param(method, param)
        need(param["name"] not in names, where, param["name"], "is there twice")
        names.add(param["name"])
    given = method.get("example", {}).get("params", {})
    need(set(given) <= names, where, "the example has unknown parameters")
    need(not method.get("example") or all(p["name"] in given for p in method["params"] if p.get("required")),
         where, "the example lacks a required parameter")


def load(paths):
    seen = set()
    groups = []
    for path in paths:
        with open(path, encoding="utf-8") as f:
            try:
                group = json.load(f)
            except json.JSONDecodeError as e:
                raise SchemaError(f"{path}: {e}") from e
        need(group.get("title") and set(group) <= {"title", "doc", "methods"}, path, "no good group")
        for method in group["methods"]:
            check_method(method, seen)
        groups.append(group)
    return {"groups": groups}


def methods_of(schema):
    return [m for group in schema["groups"] for m in group["methods"]]


# ---- C ----

def c_string(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def c_int(value):
    value = int(value)
    return "INT64_MIN" if value == -2**63 else f"INT64_C({value})"


def header(schema):
    out = ["/* SPDX-License-Identifier: BSD-3-Clause */", f"/* {BANNER} */",
           "#ifndef RPC_SCHEMA_GEN_H", "#define RPC_SCHEMA_GEN_H", "",
           "#include <jansson.h>", "#include <stdbool.h>", "#include <stdint.h>", "#include <uuid/uuid.h>", "",
           '#include "rpc/rpc.h"', "",
           "/* Parameters as a handler gets them. An optional one that was not given has its default, or NULL or 0. */"]
    for method in methods_of(schema):
        fields = []
        for param in (p for p in method["params"] if "neutral" not in p):
            if not param.get("required"):
                fields.append(f"\tbool has_{param['name']};")
            fields.append("\t" + TYPES[param["type"]][1].format(param["name"]))
        if fields:
            out += ["", f"struct {method['name']}_params {{"] + fields + ["};"]
    return "\n".join(out + ["", "#endif", ""])


def c_param(method, param):
    struct = f"struct {method['name']}_params"
    fields = [f".name = {c_string(param['name'])}", f".doc = {c_string(param['doc'])}",
              f".type = RPC_TYPE_{param['type'].upper()}"]
    if "neutral" in param:
        fields += [".neutral = true", f".default_int = {c_int(param['neutral'])}"]
    else:
        fields.append(f".offset = offsetof({struct}, {param['name']})")
        if param.get("required"):
            fields.append(".required = true")
        else:
            fields.append(f".has_offset = offsetof({struct}, has_{param['name']})")
    if "default" in param:
        fields.append(".has_default = true")
        if isinstance(param["default"], str):
            fields.append(f".default_text = {c_string(param['default'])}")
        else:
            fields.append(f".default_int = {c_int(param['default'])}")
    if "range" in param:
        fields += [f".min = {c_int(param['range'][0])}", f".max = {c_int(param['range'][1])}"]
    if "multiple_of" in param:
        fields.append(f".multiple_of = {param['multiple_of']}")
    if param.get("power_of_two"):
        fields.append(".power_of_two = true")
    if param.get("secret"):
        fields.append(".secret = true")
    if "values" in param:
        fields.append(".values = (const char *const[]){" + ", ".join(map(c_string, param["values"])) + ", NULL}")
    return "\t{" + ",\n\t ".join(fields) + "},"


def source(schema):
    out = ["/* SPDX-License-Identifier: BSD-3-Clause */", f"/* {BANNER} */",
           "#include <stddef.h>", "", '#include "rpc/schema.h"', '#include "rpc/schema_gen.h"']
    for method in methods_of(schema):
        if method["params"]:
            out += ["", f"static const struct rpc_param {method['name']}_table[] = {{"]
            out += [c_param(method, p) for p in method["params"]] + ["};"]
    out += ["", "const struct rpc_schema rpc_schema_table[] = {"]
    for group in schema["groups"]:
        for method in group["methods"]:
            name = method["name"]
            states = " | ".join(f"RPC_{s.upper()}" for s in method["states"])
            fields = [f".name = {c_string(name)}", f".group = {c_string(group['title'])}",
                      f".summary = {c_string(method['summary'])}", f".result = {c_string(method['result'])}",
                      f".states = {states}", f".mutates = {'true' if method.get('mutates') else 'false'}",
                      f".decode_error = {method.get('decode_error', -32603)}",
                      f".range_error = {method.get('range_error', -22)}",
                      ".aliases = (const char *const[]){" + "".join(c_string(a) + ", " for a in method["aliases"])
                      + "NULL}"]
            if method.get("doc"):
                fields.append(f".doc = {c_string(method['doc'])}")
            if method["params"]:
                fields += [f".params = {name}_table",
                           f".param_count = sizeof({name}_table) / sizeof({name}_table[0])"]
                if any("neutral" not in p for p in method["params"]):
                    fields.append(f".params_bytes = sizeof(struct {name}_params)")
            out.append("\t{" + ",\n\t ".join(fields) + "},")
    out += ["};", "", "const size_t rpc_schema_count = sizeof(rpc_schema_table) / sizeof(rpc_schema_table[0]);", ""]
    return "\n".join(out)


# ---- Words ----

def bounds_words(param):
    words = []
    if "neutral" in param:
        words.append(f"only {json.dumps(param['neutral'])}")
    if "values" in param:
        words.append("one of " + ", ".join(param["values"]))
    if "min" in param and "max" in param:
        words.append(f"{param['min']} to {param['max']}")
    elif "min" in param:
        words.append(f"at least {param['min']}")
    elif "max" in param:
        words.append(f"at most {param['max']}")
    if "multiple_of" in param:
        words.append(f"a multiple of {param['multiple_of']}")
    if param.get("power_of_two"):
        words.append("a power of two")
    return "; ".join(words)


def presence_words(param):
    if param.get("required"):
        return "required"
    if "default" in param:
        return f"default {json.dumps(param['default'])}"
    return "optional"


def state_words(method):
    both = len(method["states"]) == 2
    where = "any state" if both else {"startup": "only before framework_start_init",
                                      "runtime": "once the framework runs"}[method["states"][0]]
    return where + ("; kept in the state directory" if method.get("mutates") else "")


def has_bounds(param):
    return param["type"] in RANGES or "neutral" in param or "power_of_two" in param


def error_words(method):
    decode, bounds = method.get("decode_error", -32603), method.get("range_error", -22)
    if not method["params"]:
        return "Error -32602: a parameter was given; none is wanted."
    wrong = f"Error {decode}: a parameter is missing, unknown or of the wrong type"
    if not any(map(has_bounds, method["params"])):
        return wrong + "."
    return wrong + (", or out of bounds." if bounds == decode else f"; {bounds}: one is out of bounds.")


INTRO = """berthd speaks JSON-RPC 2.0 on a unix stream socket (`/var/tmp/berth.sock` unless `-r` says otherwise, with
permission 0600). Requests follow each other without any framing but JSON itself; each answer ends with a line feed.
Several requests may be under way on one connection; answers come in the order in which they finish, so match them by
`id`. A request without an `id` gets no answer. An array of requests is a batch: they run one after another, and one
array answers them in the same order.

Names, parameters, results and error codes are those of SPDK where SPDK has the method, so its clients work unchanged.
"""
ERRORS = [
    ("-32700", "The bytes are not JSON. The connection is closed afterwards."),
    ("-32600", "The JSON is no request."),
    ("-32601", "There is no such method."),
    ("-32602, -32603", "A parameter is wrong. Which of the two it is, each method says below: they are those of SPDK."),
    ("-1", "The method may not be called in the present state."),
    ("other", "A negative errno: -17 the name is taken, -19 there is no such object, -22 a value is out of bounds, ..."),
]


def request_text(method):
    call = {"jsonrpc": "2.0", "id": 1, "method": method["name"]}
    if method["example"].get("params"):
        call["params"] = method["example"]["params"]
    return json.dumps(call)


def doc(schema):
    out = [f"<!-- {BANNER} -->", "# JSON-RPC methods", "", INTRO, "## Errors", "", "| code | meaning |", "|---|---|"]
    out += [f"| {code} | {words} |" for code, words in ERRORS]
    out += ["", "The message names the parameter or object, what was given and what is wanted.", "", "## Limits", "",
            "A request has at most 4 MiB and 64 levels of nesting, a batch 4096 requests. 128 connections are served",
            "at a time, further ones wait. A connection is not read from while 64 of its requests are under way or",
            "1 MiB of its answers wait to be taken.", ""]
    for group in schema["groups"]:
        out += [f"## {group['title']}", ""]
        if group.get("doc"):
            out += [group["doc"], ""]
        for method in group["methods"]:
            out += [f"### {method['name']}", "", method["summary"] + ".", ""]
            if method.get("doc"):
                out += [method["doc"], ""]
            out.append(f"May be called: {state_words(method)}.")
            if method["aliases"]:
                out[-1] += " Older names: " + ", ".join(f"`{a}`" for a in method["aliases"]) + "."
            out.append("")
            if method["params"]:
                out += ["| parameter | type | | |", "|---|---|---|---|"]
                for p in method["params"]:
                    bounds = bounds_words(p)
                    words = p["doc"] + (f" ({bounds})" if bounds else "")
                    out.append(f"| `{p['name']}` | {TYPES[p['type']][0]} | {presence_words(p)} | {words} |")
                out.append("")
            out += [error_words(method), "", f"Result: {method['result']}", ""]
            if "example" in method:
                answer = json.dumps({"jsonrpc": "2.0", "id": 1, "result": method["example"]["result"]})
                out += ["```json", request_text(method), answer, "```", ""]
    return "\n".join(out)


def roff(text):
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = re.sub(r"`([^`]*)`", r"\\fB\1\\fR", text)
    return "\n".join("\\&" + line if line[:1] in (".", "'") else line for line in text.split("\n"))


def man(schema):
    out = [f'.\\" {BANNER}', '.TH BERTH\\-RPC 7 "" "berth" "berth manual"', ".SH NAME",
           "berth\\-rpc \\- JSON\\-RPC methods of berthd", ".SH DESCRIPTION"]
    out += [line if line else ".PP" for line in roff(INTRO).strip().split("\n")]
    out += [".PP", "\\fBberth rpc \\fIMETHOD\\fR [\\fIkey\\fR=\\fIvalue\\fR ...] calls a method;",
            "\\fBberth rpc \\fIMETHOD\\fB \\-\\-help\\fR shows what follows here of one.", ".SH ERRORS"]
    for code, words in ERRORS:
        out += [".TP", f".B {roff(code)}", roff(words)]
    for group in schema["groups"]:
        out += [f".SH {roff(group['title']).upper()}"]
        if group.get("doc"):
            out.append(roff(group["doc"]))
        for method in group["methods"]:
            out += [f".SS {roff(method['name'])}", roff(method["summary"] + ". " + method.get("doc", "")).strip(),
                    f"May be called: {roff(state_words(method))}."]
            if method["aliases"]:
                out.append(roff("Older names: " + ", ".join(method["aliases"]) + "."))
            for p in method["params"]:
                bounds = bounds_words(p)
                words = f"{p['doc']} ({'; '.join(filter(None, [bounds, presence_words(p)]))})."
                out += [".TP", f"\\fB{roff(p['name'])}\\fR ({TYPES[p['type']][0]})", roff(words)]
            out += [".PP", roff(error_words(method)), ".PP", "Result: " + roff(method["result"])]
    out += [".SH SEE ALSO", ".BR berth (1),", ".BR berthd (8)", ""]
    return "\n".join(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("schema", nargs="+")
    makers = {"header": header, "source": source, "doc": doc, "man": man}
    for name in makers:
        parser.add_argument("--" + name, metavar="FILE")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    try:
        schema = load(args.schema)
    except (SchemaError, ValueError) as e:
        sys.exit(str(e))
    status = 0
    for name, make in makers.items():
        path = getattr(args, name)
        if path is None:
            continue
        text = make(schema)
        if args.check:
            try:
                with open(path, encoding="utf-8") as f:
                    same = f.read() == text
            except OSError:
                same = False
            if not same:
                print(f"{path} is not up to date: ninja -C BUILD rpc-docs", file=sys.stderr)
                status = 1
        else:
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
