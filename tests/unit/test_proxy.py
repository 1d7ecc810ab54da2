"""The fault proxy: a server that names its own address is quoted with the proxy's."""

from __future__ import annotations

import asyncio

import pytest

from saga_choreo.testing.proxy import FaultProxy


@pytest.mark.parametrize("cut", [0, 3, 7, 9, 12, 13, 15, 16, 18])
def test_an_address_in_what_the_server_says_is_replaced_by_the_proxys_wherever_it_is_cut(cut: int) -> None:
    async def run() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            said = b"\x00\x00\x09127.0.0.1" + port.to_bytes(4, "big") + b"end"
            for part in (said[:cut], said[cut:]):
                writer.write(part)
                await writer.drain()
                await reader.readexactly(1)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with FaultProxy(port) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"1")
            # The second part comes only after the first byte went up: the two arrive as two chunks.
            heard = await asyncio.wait_for(reader.readexactly(3), 10) if cut >= 3 else b""
            writer.write(b"2")
            heard += await asyncio.wait_for(reader.readexactly(19 - len(heard)), 10)
            assert heard == b"\x00\x00\x09127.0.0.1" + proxy.port.to_bytes(4, "big") + b"end"
            writer.close()
        server.close()

    asyncio.run(run())
