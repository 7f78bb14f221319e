"""What a stranger may cost the native front: replies nobody reads, bodies that never end, connections without number."""

import asyncio
import contextlib
import resource
import socket

import pytest
import uvloop
from transport_harness import native, status_of, talk, until_true

from gateway.exchange import Exchange
from gateway.native.front import FrontLimits
from gateway.native.sweep import Sweep
from gateway.processes import transports

H = b"Host: h\r\n"
GET = b"GET /x HTTP/1.1\r\n" + H
BIG = 6_000_000


def echoing_the_path(_):
    async def serve(exchange: Exchange) -> None:
        exchange.respond(404, [], b"there is nothing at " + exchange.request.path.encode())

    return serve


def answering_at_length(_):
    async def serve(exchange: Exchange) -> None:
        exchange.respond(200, [], b"a" * BIG)

    return serve


def unread_connection(port: int) -> socket.socket:
    """A connection whose owner takes little before it reads."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    sock.connect(("127.0.0.1", port))
    sock.setblocking(False)
    return sock


def waits_for_room(front) -> bool:
    return any(caller.room is not None for caller in front._callers)


# --- replies nobody reads -----------------------------------------------------------------------------------------------------------------


async def flood(sock: socket.socket, front, size: int) -> int:
    """Send whole requests one after the other without reading a byte, until cut off; return the most that ever waited to be sent back."""
    request = b"GET /" + b"a" * size + b" HTTP/1.1\r\n" + H + b"\r\n"
    sent, most = 0, 0
    while sent < 60_000_000:
        try:
            sent += sock.send(request[sent % len(request) :])
        except BlockingIOError:
            await asyncio.sleep(0.005)  # the gateway reads no more for now; it is tried again and again
        except ConnectionError:
            break
        else:
            await asyncio.sleep(0)
        most = max([most, *(caller.transport.get_write_buffer_size() for caller in front._callers)])
    return most


@pytest.mark.parametrize("size", [6_000, 20_000], ids=["whole in one read", "through the parser"])
def test_a_caller_who_never_reads_costs_a_bounded_buffer_and_is_cut_off_although_it_goes_on_sending(size: int):
    async def main():
        async with native(echoing_the_path, FrontLimits(stall_timeout_s=0.4)) as stack:
            with contextlib.closing(unread_connection(stack.port)) as sock:
                async with asyncio.timeout(10):
                    most = await flood(sock, stack.front, size)
                await until_true(lambda: "0 connections" in repr(stack.front))
            return most

    assert uvloop.run(main()) < 300_000


async def read_whole(sock: socket.socket, size: int) -> bytes:
    received = b""
    async with asyncio.timeout(10):
        while len(received) < size:
            data = await asyncio.get_running_loop().sock_recv(sock, 1 << 20)
            if not data:
                break
            received += data
    return received


def test_requests_that_were_accepted_are_answered_before_the_refusal_behind_them_also_when_replies_wait_for_room():
    async def main():
        async with native(answering_at_length, FrontLimits(linger_s=0.2)) as stack:
            with contextlib.closing(unread_connection(stack.port)) as sock:
                await asyncio.get_running_loop().sock_sendall(sock, (GET + b"\r\n") * 3 + b"NONSENSE\r\n\r\n")
                await until_true(lambda: waits_for_room(stack.front))
                return await read_whole(sock, 10 * BIG)

    received = uvloop.run(main())
    assert received.count(b"HTTP/1.1 200") == 3
    assert received.count(b"a" * BIG) == 3
    assert received.count(b"HTTP/1.1 400") == 1
    assert received.rindex(b"HTTP/1.1 200") < received.index(b"HTTP/1.1 400")


def test_a_head_that_is_half_read_while_the_gateway_itself_does_not_read_is_not_called_slow():
    async def main():
        loop = asyncio.get_running_loop()
        async with native(answering_at_length, FrontLimits(head_timeout_s=0.2)) as stack:
            with contextlib.closing(unread_connection(stack.port)) as sock:
                await loop.sock_sendall(sock, GET + b"\r\n" + GET)
                await until_true(lambda: waits_for_room(stack.front))
                await asyncio.sleep(0.5)  # the first reply waits for room: the rest of the second head would not be read now
                await loop.sock_sendall(sock, b"\r\n")
                return await read_whole(sock, 2 * BIG + len(b"HTTP/1.1 200 OK") * 2)

    received = uvloop.run(main())
    assert received.count(b"HTTP/1.1 200") == 2
    assert b" 408 " not in received


def test_a_long_last_reply_is_not_cut_short_by_the_moment_a_closing_connection_lingers():
    async def main():
        async with native(answering_at_length, FrontLimits(linger_s=0.1)) as stack:
            with contextlib.closing(unread_connection(stack.port)) as sock:
                await asyncio.get_running_loop().sock_sendall(sock, GET + b"Connection: close\r\n\r\n")
                await until_true(lambda: waits_for_room(stack.front))
                await asyncio.sleep(0.4)
                return await read_whole(sock, 2 * BIG)

    assert uvloop.run(main()).endswith(b"\r\n\r\n" + b"a" * BIG)


# --- bodies that never end ----------------------------------------------------------------------------------------------------------------


def post(length: int) -> bytes:
    return b"POST / HTTP/1.1\r\n" + H + b"Content-Length: %d\r\n\r\n" % length


def test_a_fast_start_buys_a_body_no_hours_of_silence():
    async def main():
        async with native(echoing_the_path, FrontLimits(body_grace_s=0.2)) as stack:
            return await talk(stack.port, post(200_000), b"a" * 150_000, timeout_s=3)

    assert status_of(uvloop.run(main())) == 408


def test_a_body_above_the_floor_has_a_time_all_in_all():
    async def main():
        async with native(echoing_the_path, FrontLimits(body_grace_s=0.1, body_timeout_s=0.4)) as stack:
            reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
            writer.write(post(1_000_000))
            reply = asyncio.ensure_future(reader.read(64))
            sent = 0
            while not reply.done() and sent < 150:
                writer.write(b"a" * 2000)
                sent += 1
                await asyncio.sleep(0.02)
            writer.close()
            return await reply, sent

    reply, sent = uvloop.run(main())
    assert status_of(reply) == 408
    assert sent < 100, "refused while it was still sending, far above the floor"


def test_unfinished_bodies_have_a_bound_all_together_and_what_a_refused_one_held_is_let_go():
    async def main():
        async with native(echoing_the_path, FrontLimits(bodies_limit_bytes=100_000)) as stack:
            held = [await asyncio.open_connection("127.0.0.1", stack.port) for _ in range(2)]
            for _, writer in held:
                writer.write(post(90_000) + b"a" * 60_000)
            await until_true(lambda: stack.front.body_bytes == 120_000)
            refused = await talk(stack.port, post(90_000) + b"a" * 60_000, until=b"}")
            for _, writer in held:
                writer.write(b"a" * 10)
            for reader, _ in held:
                assert status_of(await reader.read(64)) == 503
            # Their connections linger for a moment so that the answer is read; their bodies do not.
            await until_true(lambda: stack.front.body_bytes == 0, timeout_s=0.5)
            served = await talk(stack.port, post(9) + b"a" * 9, until=b"at /")
            for _, writer in held:
                writer.close()
            return refused, served

    refused, served = uvloop.run(main())
    assert status_of(refused) == 503
    assert status_of(served) == 404


# --- connections without number -----------------------------------------------------------------------------------------------------------


def test_connections_past_twice_the_limit_are_not_even_told_so():
    async def main():
        async with native(echoing_the_path, FrontLimits(connection_limit=2)) as stack:
            kept = [await asyncio.open_connection("127.0.0.1", stack.port) for _ in range(4)]
            replies = []
            for reader, writer in kept:
                writer.write(GET + b"\r\n")
                replies.append(status_of(await reader.read(64)))
            past = await talk(stack.port, GET + b"\r\n")
            for _, writer in kept:
                writer.close()
            return replies, past

    replies, past = uvloop.run(main())
    assert replies == [404, 404, 503, 503]
    assert past == b""


@pytest.mark.parametrize(("descriptors", "most"), [(1024, 168), (4096, 2472), (65_536, 10_000), (256, 64)])
def test_callers_leave_descriptors_for_models_the_log_and_the_control_files(monkeypatch: pytest.MonkeyPatch, descriptors: int, most: int):
    monkeypatch.setattr(transports.resource, "getrlimit", lambda _: (descriptors, resource.RLIM_INFINITY))

    async def main() -> int:
        transport = transports.NativeTransport(Sweep(asyncio.get_running_loop()))
        await transport.listen(echoing_the_path(None), render=lambda _: ([], b""), sock=socket.create_server(("127.0.0.1", 0)), body_limit_bytes=1)
        limits = transport._front.limits
        await transport.drain(0.1)
        await transport.close()
        return limits.connection_limit

    assert uvloop.run(main()) == most


# --- methods ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [b"M-SEARCH"])
def test_a_method_the_parser_knows_and_nobody_forwards_is_a_405(method: bytes):
    async def main():
        async with native(echoing_the_path) as stack:
            return await talk(stack.port, method + b" /http/m/x HTTP/1.1\r\n" + H + b"\r\n", until=b"}")

    assert status_of(uvloop.run(main())) == 405
