//! The floor to compare with: a relay with two threads per connection that looks at nothing.
//!
//! Each connection goes to the next upstream, each direction has a thread that copies 64 KiB at a
//! time with blocking reads and writes. No HTTP, no pool, no reuse, no limits, no log: what is
//! cheaper than this saves kernel work that blocking threads cannot do without.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::machine;

const BUFFER: usize = 64 * 1024;
const STACK: usize = 128 * 1024;

/// A damaging relay leaves smaller pieces as they are, so that heads remain readable.
const LARGE: usize = 1000;

/// Whether bytes arrive as they were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Honesty {
    Passes,
    /// One bit of the last byte of each large piece is wrong: do the checks see it?
    Damages,
}

/// Prints its port, and relays until standard input ends.
pub(crate) fn serve(upstreams: &[u16], honesty: Honesty) -> io::Result<()> {
    machine::raise_file_limit();
    // The standard library's backlog is 128; a burst beyond it would wait for a second.
    let listener = TcpListener::from(machine::listen()?);
    listener.set_nonblocking(false)?;
    println!("{}", listener.local_addr()?.port());
    io::stdout().flush()?;
    named("end", || {
        drop(io::stdin().read(&mut [0]));
        std::process::exit(0);
    })?;
    for &port in upstreams.iter().cycle() {
        let (client, _) = listener.accept()?;
        named("up", move || drop(relay(client, port, honesty)))?;
    }
    Ok(())
}

fn named(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let builder = thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK);
    builder.spawn(work).map(drop)
}

fn relay(client: TcpStream, port: u16, honesty: Honesty) -> io::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let upstream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    let (client, upstream) = (Arc::new(client), Arc::new(upstream));
    let (to, from) = (Arc::clone(&client), Arc::clone(&upstream));
    named("down", move || copy(&from, &to, honesty))?;
    copy(&client, &upstream, honesty);
    Ok(())
}

/// Until the end of the stream, which is passed on.
fn copy(from: &TcpStream, to: &TcpStream, honesty: Honesty) {
    let mut buffer = vec![0; BUFFER];
    let mut copy = || -> io::Result<()> {
        loop {
            let count = (&mut &*from).read(&mut buffer)?;
            if count == 0 {
                return to.shutdown(Shutdown::Write);
            }
            if honesty == Honesty::Damages && count > LARGE {
                buffer[count - 1] ^= 1;
            }
            (&mut &*to).write_all(&buffer[..count])?;
        }
    };
    if copy().is_err() {
        // The other thread shall not wait for a connection that has failed.
        drop(from.shutdown(Shutdown::Both));
        drop(to.shutdown(Shutdown::Both));
    }
}
