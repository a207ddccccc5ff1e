//! Ports of the loopback device that no other test gets.

use std::mem;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process;
use std::sync::atomic::{AtomicU16, Ordering};

use socket2::{Domain, Socket, Type};

/// Systems give ports from 32768 up to sockets that name none.
const NAMED: std::ops::Range<u16> = 10_000..32_000;

/// Returns an address that refuses connections until the end of the process.
///
/// A port that a listener has just left may be given to the server of another test.
pub fn closed() -> SocketAddr {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    // Without SO_REUSEADDR, which std sets for each listener, nobody else gets the port of a socket that does not listen.
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a loopback port is free");
    let address =
        socket.local_addr().ok().and_then(|address| address.as_socket()).expect("the bound address");
    mem::forget(socket);
    address
}

/// Returns an address for a server whose configuration must name one. Its port is outside of the range that the system hands
/// out.
pub fn free() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test programs that run side by side begin at different ports.
    let first = u16::try_from(process::id() % u32::from(NAMED.end - NAMED.start)).expect("below the length");
    loop {
        let offset = (first + NEXT.fetch_add(1, Ordering::Relaxed)) % (NAMED.end - NAMED.start);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, NAMED.start + offset));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    #[test]
    fn nobody_listens_at_a_closed_port_and_nobody_gets_it() {
        let closed = super::closed();
        assert!(TcpStream::connect(closed).is_err());
        assert!(super::TcpListener::bind(closed).is_err());
        assert!(TcpStream::connect(super::free()).is_err());
    }
}
