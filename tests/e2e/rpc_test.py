#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""JSON-RPC as SPDK's clients speak it: the facts of tests/data/rpc-facts.jsonl, framing, batches, what is no request."""
import json
import os
import re
import socket

import harness
from harness import Failure, check, contains, equal

MIB = 1 << 20
FACTS = os.path.join(harness.ROOT, "tests", "data", "rpc-facts.jsonl")
UUID = re.compile(r"^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$")
TYPES = {
    "string": lambda v: isinstance(v, str),
    "uint": lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 0,
    "int": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "bool": lambda v: isinstance(v, bool),
    "uuid": lambda v: isinstance(v, str) and UUID.match(v),
    "null": lambda v: v is None,
    "any": lambda v: True,
}

MIB = 1 << 20


def match(value, shape, where):
    if isinstance(shape, str):
        if not TYPES[shape](value):
            raise Failure(f"{where}: {value!r} is no {shape}")
    elif isinstance(shape, list):
        check(isinstance(value, list), f"{where}: {value!r} is no array")
        for i, element in enumerate(value):
            match(element, shape[0], f"{where}[{i}]")
    elif set(shape) == {"="}:
        equal(value, shape["="], where)
    else:
        check(isinstance(value, dict), f"{where}: {value!r} is no object")
        for key, inner in shape.items():
            check(key in value, f"{where}: key {key} is missing in {value!r}")
            match(value[key], inner, f"{where}.{key}")


def check_fact(rpc, fact):
    answer = rpc.answer(fact["method"], fact.get("params"))
    where = f"{fact['method']} {json.dumps(fact.get('params', {}))}"
    if "error" not in fact:
        check("result" in answer, f"{where}: answered {answer.get('error')}")
        match(answer["result"], fact["result"], where)
        return
    check("error" in answer, f"{where}: succeeded with {answer.get('result')!r}")
    error = answer["error"]
    match(error, {"code": "int", "message": "string"}, where)
    if fact["error"] != "any":
        equal(error["code"], fact["error"], f"{where}: code ({error['message']})")
    contains(error["message"], fact.get("names", ""), where)


def test_facts(t):
    d = t.daemon()
    for name in ("aio.img", "uring.img"):
        with open(d.path(name), "wb") as f:
            f.truncate(64 << 20)
    facts = 0
    wrong = []
    with open(FACTS) as lines, d.rpc() as rpc:
        for line in lines:
            fact = json.loads(line.replace("$DIR", d.folder))
            if "method" not in fact or (fact.get("needs") == "uring" and not harness.has_uring()):
                continue
            facts += 1
            try:
                check_fact(rpc, fact)
            except Failure as e:
                wrong.append(str(e))
    check(facts > 80, f"only {facts} facts")
    check(not wrong, f"{len(wrong)} of {facts}:\n" + "\n".join(wrong))


def test_every_listed_method_answers(t):
    """A wrong parameter is named by every method; none may hang or end the daemon."""
    d = t.daemon()
    with d.rpc() as rpc:
        for method in rpc.call("rpc_get_methods"):
            answer = rpc.answer(method, {"no_such_parameter": 1})
            check("error" in answer, f"{method} took no_such_parameter")
            if answer["error"]["code"] == -1:
                continue
            check(answer["error"]["code"] in (-32602, -32603), f"{method}: {answer['error']}")
            contains(answer["error"]["message"], "no_such_parameter", method)


def test_parameters_by_position_are_refused(t):
    d = t.daemon()
    with d.rpc() as rpc:
        rpc.send('{"jsonrpc":"2.0","id":7,"method":"bdev_get_bdevs","params":["x"]}')
        answer = rpc.receive()
    check(answer["error"]["code"] in (-32600, -32602, -32603), str(answer))
    equal(answer["id"], 7)


def test_pieces(t):
    """A request may come in any pieces, several in one piece."""
    d = t.daemon()
    with d.rpc() as rpc:
        text = json.dumps(rpc.request("spdk_get_version"))
        for c in text:
            rpc.send(c)
        equal(rpc.receive()["id"], 1)
        rpc.send("".join(json.dumps(rpc.request("spdk_get_version")) for _ in range(50)))
        equal(sorted(rpc.receive()["id"] for _ in range(50)), list(range(2, 52)))


def test_batch(t):
    d = t.daemon()
    with d.rpc() as rpc:
        requests = [rpc.request("bdev_null_create", {"name": f"n{i}", "num_blocks": 1024, "block_size": 512}) for i in range(3)]
        requests.append(rpc.request("bdev_null_create", {"name": "n0", "num_blocks": 1024, "block_size": 512}))
        requests.append(rpc.request("bdev_get_bdevs"))
        rpc.send(json.dumps(requests))
        answers = rpc.receive()
        check(isinstance(answers, list), f"a batch is answered by an array, not {answers!r}")
        by_id = {a["id"]: a for a in answers}
        equal(sorted(by_id), [r["id"] for r in requests])
        equal([by_id[i]["result"] for i in (1, 2, 3)], ["n0", "n1", "n2"])
        equal(by_id[4]["error"]["code"], -17)
        equal(len(by_id[5]["result"]), 3, "bdevs seen by the last of the batch")
        # A notification (no id) in a batch has no answer; an element that is no request has one.
        rpc.send('[{"jsonrpc":"2.0","method":"spdk_get_version"},{"jsonrpc":"2.0","id":"a","method":"spdk_get_version"},5]')
        answers = rpc.receive()
        equal(sorted(str(a["id"]) for a in answers), ["None", "a"])
        equal([a["error"]["code"] for a in answers if a["id"] is None], [-32600])
        rpc.send("[]")
        answer = rpc.receive()
        answer = answer[0] if isinstance(answer, list) else answer
        equal(answer["error"]["code"], -32600)


def refused(d, data):
    """What a new connection hears when it sends that; None when it is closed without a word."""
    with d.rpc() as rpc:
        rpc.send(data)
        rpc.sock.shutdown(socket.SHUT_WR)
        try:
            return rpc.receive()
        except (EOFError, ConnectionResetError):
            return None


def test_no_request(t):
    d = t.daemon()
    for data, code in [
        (b'{"jsonrpc":"2.0","id":1,"method":}', -32700),
        (b"hello", -32700),
        (b"\x00\xff\xfe{}", -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', -32600),
        (b'{"jsonrpc":"2.0","id":1}', -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"spdk_get_version"}', -32600),
        (b'7', -32600),
    ]:
        answer = refused(d, data)
        check(answer is not None, f"{data!r}: no answer")
        equal(answer["error"]["code"], code, repr(data))
    # Unfinished, deep, long: an error or a closed connection, and the daemon goes on.
    for data in [b'{"jsonrpc":"2.0","id":1,"meth', b"[" * 100000, b'{"a":' * 100000, b'"' + b"x" * (40 << 20)]:
        try:
            refused(d, data)
        except (BrokenPipeError, ConnectionResetError):
            pass
    check(d.call("spdk_get_version")["version"], "daemon goes on")


def test_many_connections(t):
    d = t.daemon()
    base = d.fd_count()
    connections = [d.rpc() for _ in range(100)]
    for c in connections[::2]:
        c.send(json.dumps(c.request("spdk_get_version")))
    for c in connections[::2]:
        check("result" in c.receive())
    for i, c in enumerate(connections):
        if i % 3 == 0:
            c.send('{"jsonrpc":"2.0","id":1,"method":"bdev_get_iostat"}')
        c.close()
    harness.until(lambda: d.fd_count() <= base, "descriptors of closed connections are given back")


def test_slow_reader_delays_nobody(t):
    d = t.daemon()
    with d.rpc() as slow:
        slow.sock.setblocking(False)
        request = json.dumps(slow.request("rpc_get_methods", {"include_aliases": True})).encode()
        try:
            for _ in range(20000):
                slow.sock.send(request)
        except BlockingIOError:
            pass
        check(d.call("spdk_get_version")["version"], "others are answered")


def hwm(d):
    with open(f"/proc/{d.pid}/status") as f:
        return int(f.read().split("VmHWM:")[1].split()[0]) * 1024


def test_lists_pipelined_and_in_a_batch(t):
    """However many long lists are asked for at once, one is made at a time: all are answered, and memory stays small."""
    d = t.daemon()
    d.call("bdev_null_create", name="n", num_blocks=8, block_size=512)
    with d.rpc() as rpc:
        rpc.sock.settimeout(60 * harness.PATIENCE)
        count = 300 if harness.SANITIZED else 2000
        for i in range(count):
            rpc.send(json.dumps(rpc.request("vhost_create_blk_controller", {"ctrlr": f"controller-{i:06}", "dev_name": "n"})))
        for _ in range(count):
            check("result" in rpc.receive(), "created")
        before = hwm(d)
        lists = 64
        for _ in range(lists):
            rpc.send(json.dumps(rpc.request("vhost_get_controllers")))
        for _ in range(lists):
            answer = rpc.receive()
            equal(len(answer["result"]), count)
        if not harness.SANITIZED:
            check(hwm(d) - before < 24 * MIB, f"{(hwm(d) - before) >> 20} MiB more for {lists} lists")
            # An answer has a limit; what was asked for is not made at any price.
            rpc.send(json.dumps([rpc.request("vhost_get_controllers") for _ in range(200)]))
            answer = rpc.receive()
            equal(answer["error"]["code"], -32603)
            contains(answer["error"]["message"], "64 MiB")
            check(hwm(d) - before < 192 * MIB, f"{(hwm(d) - before) >> 20} MiB more for a batch")
        check(rpc.call("spdk_get_version")["version"], "the connection goes on")


harness.main(globals())
