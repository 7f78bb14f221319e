"""https upstreams: the certificate is checked, the bytes arrive."""

import asyncio
import datetime as dt
import ipaddress
import socket
import ssl
import threading

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from transport_harness import answering

from gateway.exchange import Endpoint, Fault, UpstreamError
from gateway.native.upstream import NativeUpstream, UpstreamLimits
from gateway.portable.upstream import PortableUpstream


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    """Server context and a client context that trusts it."""
    directory = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "model")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = directory / "cert.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_pem = directory / "key.pem"
    key_pem.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem, key_pem)
    return server, ssl.create_default_context(cafile=pem)


async def call(upstream, port):
    loop = asyncio.get_running_loop()
    reply = await upstream.send(Endpoint("https", "127.0.0.1", port), "POST", b"/x", [], b"{}", loop.time() + 2)
    return reply.status, await reply.read(100)


def against(server_context, make):
    async def main():
        script = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        tasks = set()

        async def run(reader, writer):
            tasks.add(asyncio.current_task())
            try:
                await script(reader, writer)
            except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                writer.close()

        server = await asyncio.start_server(run, "127.0.0.1", 0, ssl=server_context)
        upstream = make(asyncio.get_running_loop())
        try:
            return [await call(upstream, server.sockets[0].getsockname()[1]) for _ in range(2)]
        finally:
            await (upstream.close() if isinstance(upstream, NativeUpstream) else upstream.aclose())
            server.close()
            if tasks:
                await asyncio.wait(tasks, timeout=1)

    return uvloop.run(main())


MAKERS = {
    "native": lambda tls: lambda loop: NativeUpstream(loop, UpstreamLimits(), tls=tls),
    "portable": lambda tls: lambda _: PortableUpstream(tls=tls),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_an_https_upstream_with_a_trusted_certificate_answers(contexts, kind):
    assert against(contexts[0], MAKERS[kind](contexts[1])) == [(200, b"ok")] * 2


@pytest.mark.parametrize("kind", MAKERS)
def test_an_https_upstream_nobody_vouches_for_is_a_connect_fault_and_not_sent(contexts, kind):
    with pytest.raises(UpstreamError) as error:
        against(contexts[0], MAKERS[kind](ssl.create_default_context()))
    assert (error.value.fault, error.value.sent) == (Fault.CONNECT, False)


def busy_at_once(context, listener, count):
    """Accept `count` callers; say that all places are taken in the very packet that ends the handshake, and hang up."""
    for _ in range(count):
        caller, _ = listener.accept()
        with caller:
            received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = context.wrap_bio(received, sent, server_side=True)
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    caller.sendall(sent.read())
                    received.write(caller.recv(65536))
            tls.write(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n")
            caller.sendall(sent.read())
            caller.recv(65536)


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run])
def test_a_server_that_speaks_before_it_is_asked_leaves_no_connection_behind(contexts, run):
    server_context, client_context = contexts
    server_context.maximum_version = ssl.TLSVersion.TLSv1_2  # there the server has the last word of the handshake
    calls = 3

    async def main(port):
        upstream = NativeUpstream(asyncio.get_running_loop(), UpstreamLimits(connection_limit=2, connect_timeout_s=0.2), tls=client_context)
        found = []
        for _ in range(calls):
            with pytest.raises(UpstreamError) as failed:
                await call(upstream, port)
            found.append((failed.value.fault, failed.value.sent))
        (pool,) = upstream._pools.values()
        state = repr(pool)
        await upstream.close()
        return found, state

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=busy_at_once, args=(server_context, listener, calls), daemon=True)
        server.start()
        try:
            found, state = run(main(listener.getsockname()[1]))
        finally:
            server_context.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED
    server.join(5)
    assert found == [(Fault.CONNECT, False)] * calls, "the model has seen nothing: another replica may be asked"
    assert "0 open, 0 idle" in state
