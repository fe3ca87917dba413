# SPDX-License-Identifier: BSD-3-Clause
"""
A small NBD client for tests that need their own: fixed newstyle, simple replies, one request at a time on a connection. Raises
OSError for what the server answers with an error, EOFError when it is gone.
"""
import os
import socket
import struct

READ, WRITE, DISCONNECT, FLUSH, TRIM, WRITE_ZEROES = 0, 1, 2, 3, 4, 6
OPTION_GO, REPLY_ACK, REPLY_INFO = 7, 1, 3
PIECE = 4 << 20


class Nbd:
    def __init__(self, path, export, timeout=60):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout)
        self.sock.connect(path)
        self.number = 0
        magic, option, flags = struct.unpack(">QQH", self.receive(18))
        if magic != 0x4e42444d41474943 or option != 0x49484156454f5054:
            raise OSError("no NBD server")
        self.sock.sendall(struct.pack(">I", flags & 3))
        name = export.encode()
        self.sock.sendall(struct.pack(">QIII", option, OPTION_GO, len(name) + 6, len(name)) + name + bytes(2))
        while True:
            _, _, kind, length = struct.unpack(">QIII", self.receive(20))
            data = self.receive(length)
            if kind == REPLY_ACK:
                break
            if kind & 1 << 31:
                raise OSError(f"export {export}: {data.decode(errors='replace')}")
            if kind == REPLY_INFO and data[:2] == b"\0\0":
                self.size, self.flags = struct.unpack(">QH", data[2:12])

    def receive(self, length):
        data = bytearray(length)
        view = memoryview(data)
        while view:
            got = self.sock.recv_into(view)
            if got == 0:
                raise EOFError("the server closed the connection")
            view = view[got:]
        return bytes(data)

    def request(self, command, offset, length, data=b""):
        self.number += 1
        self.sock.sendall(struct.pack(">IHHQQI", 0x25609513, 0, command, self.number, offset, length) + data)
        magic, error, number = struct.unpack(">IIQ", self.receive(16))
        if magic != 0x67446698 or number != self.number:
            raise OSError("an answer to nothing that was asked")
        if error:
            raise OSError(error, os.strerror(error))

    def read(self, offset, length):
        self.request(READ, offset, length)
        return self.receive(length)

    def write(self, offset, data):
        self.request(WRITE, offset, len(data), data)

    def flush(self):
        self.request(FLUSH, 0, 0)

    def trim(self, offset, length):
        self.request(TRIM, offset, length)

    def write_zeroes(self, offset, length):
        self.request(WRITE_ZEROES, offset, length)

    def pieces(self):
        """All of it, as (offset, bytes)."""
        for offset in range(0, self.size, PIECE):
            yield offset, self.read(offset, min(PIECE, self.size - offset))

    def whole(self):
        return b"".join(data for _, data in self.pieces())

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
