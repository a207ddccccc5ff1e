//! The loop that accepts the connections of one listener.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::task::JoinSet;

use super::ServeError;
use super::connection::{Serving, stopped};
use super::listeners::{Listener, Stream};
use crate::meters::ClosedFor;

/// Accepts connections until the shutdown, and closes the listener. Returns the connections that are still open.
pub(super) async fn accept(listener: Listener, serving: Serving) -> Result<JoinSet<()>, ServeError> {
    let mut connections = JoinSet::new();
    let mut stopping = serving.stopping.clone();
    // A connection that waits for a place. Further clients wait in the kernel's queue.
    let mut waiting: Option<(Stream, Option<IpAddr>)> = None;
    loop {
        let next = async {
            let address = match &waiting {
                Some((_, address)) => *address,
                None => waiting.insert(listener.socket.accept().await?).1,
            };
            Ok((serving.seat(address).await, waiting.take()))
        };
        tokio::select! {
            () = stopped(&mut stopping) => break,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    log::error!(reason:% = error; "a connection ended with an internal error");
                }
            }
            accepted = next => match accepted {
                Ok((Some(seat), Some((stream, address)))) => {
                    let counted = serving.shared.meters.connected();
                    let connection = serving.clone().serve(stream, address, seat);
                    connections.spawn(async move {
                        connection.await;
                        drop(counted);
                    });
                }
                Ok((_, refused)) => {
                    let client = refused.and_then(|(_, address)| address);
                    serving.shared.meters.closed(ClosedFor::AddressLimit);
                    log::debug!(client:? = client; "closed a connection: its address has too many");
                }
                Err(error) if is_of_one_connection(&error) => log::debug!(reason:% = error; "a client gave up before its connection was accepted"),
                Err(error) if is_fatal(&error) => return Err(ServeError::Accept(error)),
                Err(error) => {
                    // Out of files or memory, until some connection ends.
                    log::warn!(
                        reason:% = error, help = "raise the limit of open files (ulimit -n, LimitNOFILE)";
                        "cannot accept a connection"
                    );
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    while connections.try_join_next().is_some() {}
    Ok(connections)
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn is_fatal(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::OPNOTSUPP)
    )
}
